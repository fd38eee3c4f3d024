"""Trained models by name, file or folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, overload

import torch

from dcpt.backbones import Backbone
from dcpt.checkpoint import load_model
from dcpt.conversion import CHECKPOINT_SUFFIXES, load_checkpoint, read_checkpoint
from dcpt.device import pick_device
from dcpt.errors import CheckpointMismatch, InvalidSetting
from dcpt.heads import DegradationClassifier
from dcpt.weights import WEIGHTS


@overload
def from_pretrained(
    name: str | Path, *, with_head: Literal[False] = False, device: torch.device | str | None = None, **options: Any
) -> Backbone: ...
@overload
def from_pretrained(
    name: str | Path, *, with_head: Literal[True], device: torch.device | str | None = None, **options: Any
) -> tuple[Backbone, DegradationClassifier]: ...
def from_pretrained(
    name: str | Path, *, with_head: bool = False, device: torch.device | str | None = None, **options: Any
) -> Backbone | tuple[Backbone, DegradationClassifier]:
    """Load a trained model, in evaluation mode.

    Args:
        name: A name from `list_weights()`, a folder written by training, or a checkpoint file of
            NAFNet, Restormer, PromptIR or SwinIR: published, of DCPT or of MaskDCPT.
        with_head: Return the pair of backbone and degradation classifier; its `labels` name the
            classes.
        device: Where to put it; default the CPU.
        **options: For a checkpoint file, constructor options that its weights do not tell, such
            as `attention="softmax"`.

    Raises:
        UnknownName: If there are no such weights or options.
        CheckpointMismatch: If the files are damaged, or have no head and one was asked for.
        InvalidSetting: If the device does not exist, or options are given for other than a file.

    Warns:
        UserWarning: If an option that a checkpoint file does not tell had to be assumed.
    """
    backbone, head = _load(name, options)
    device = pick_device(device or "cpu")
    backbone = backbone.to(device)
    if not with_head:
        return backbone
    if head is None:
        raise CheckpointMismatch(f"expected weights with a classifier head, got {name}, which has none")
    return backbone, head.to(device)


def _load(name: str | Path, options: dict[str, Any]) -> tuple[Backbone, DegradationClassifier | None]:
    if is_checkpoint_file(name):
        return load_checkpoint(name, **options), None
    if options:
        raise InvalidSetting(f"expected no options beside {name}, whose config has them, got {', '.join(options)}")
    path = Path(name)
    if path.is_dir() and str(name) not in WEIGHTS:
        folder = path
    elif path.exists() and str(name) not in WEIGHTS:
        raise CheckpointMismatch(f"expected a file ending in {', '.join(CHECKPOINT_SUFFIXES)}, got {path}")
    else:
        folder = WEIGHTS[str(name)].folder
    backbone, head, _ = load_model(folder)
    return backbone, head


def is_checkpoint_file(name: str | Path) -> bool:
    """Say whether a name means a checkpoint file, and not weights by name or a model folder."""
    path = Path(name)
    return path.suffix.lower() in CHECKPOINT_SUFFIXES and not path.is_dir()


def inspect_model(name: str | Path, **options: Any) -> dict[str, Any]:
    """Tell what trained weights are, as plain data, without computing a picture.

    Args:
        name: As for `from_pretrained`.
        **options: Likewise.

    Returns:
        Of a checkpoint file the family, the dialect and the options found and assumed; of other
        weights the variant and its options; of all the number of parameters, the multiple that
        sides must be of, and the features; the classes of a head if there is one.

    Raises:
        UnknownName, CheckpointMismatch: As `from_pretrained`.
    """
    head = None
    if is_checkpoint_file(name):
        checkpoint = read_checkpoint(name)
        backbone = checkpoint.build(**(checkpoint.assumed | options))
        facts = {"family": checkpoint.family, "dialect": checkpoint.dialect}
        facts |= {"found": checkpoint.found, "assumed": checkpoint.assumed | options}
    else:
        backbone, head = _load(name, options)
        facts = {"variant": backbone.variant, "options": backbone.overrides}
    return facts | {
        "parameters": sum(parameter.numel() for parameter in backbone.parameters()),
        "size_multiple": backbone.size_multiple,
        "feature_channels": backbone.feature_channels,
        "feature_strides": backbone.feature_strides,
    } | ({"classes": head.labels} if head else {})
