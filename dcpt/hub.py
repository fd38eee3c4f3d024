"""Trained models by name or folder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, overload

import torch

from dcpt.backbones import Backbone
from dcpt.checkpoint import CONFIG_FILE, load_model
from dcpt.device import pick_device
from dcpt.errors import CheckpointMismatch
from dcpt.heads import DegradationClassifier
from dcpt.weights import WEIGHTS


@overload
def from_pretrained(
    name: str | Path, *, with_head: Literal[False] = False, device: torch.device | str | None = None
) -> Backbone: ...
@overload
def from_pretrained(
    name: str | Path, *, with_head: Literal[True], device: torch.device | str | None = None
) -> tuple[Backbone, DegradationClassifier]: ...
def from_pretrained(
    name: str | Path, *, with_head: bool = False, device: torch.device | str | None = None
) -> Backbone | tuple[Backbone, DegradationClassifier]:
    """Load a trained model, in evaluation mode.

    Args:
        name: A name from `list_weights()`, or a folder written by training.
        with_head: Return the pair of backbone and degradation classifier; its `labels` name the
            classes.
        device: Where to put it; default the CPU.

    Raises:
        UnknownName: If there are no such weights.
        CheckpointMismatch: If the files are damaged, or have no head and one was asked for.
        InvalidSetting: If the device does not exist.
    """
    folder = Path(name)
    if not (folder / CONFIG_FILE).is_file():
        folder = WEIGHTS[str(name)].folder
    backbone, head, _ = load_model(folder)
    device = pick_device(device or "cpu")
    backbone = backbone.to(device)
    if not with_head:
        return backbone
    if head is None:
        raise CheckpointMismatch(f"expected weights with a classifier head, got {name}, which has none")
    return backbone, head.to(device)
