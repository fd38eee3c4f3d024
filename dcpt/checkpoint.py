"""Models on disk as this package writes them: safetensors, written atomically, loaded strictly."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from dcpt.backbones import Backbone, create_backbone
from dcpt.errors import CheckpointMismatch, InvalidSetting
from dcpt.files import atomic_path, write_json
from dcpt.heads import DegradationClassifier

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
CONFIG_FILE, MODEL_FILE, HEAD_FILE = "config.json", "model.safetensors", "head.safetensors"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file atomically."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(plain, metadata=dict(metadata or {})))


def write_pickled(path: Path, data: Mapping[str, Any]) -> str:
    """Write tensors and plain data atomically; torch.save alone destroys the old file when it fails midway.

    Returns:
        The sha256 of the file.
    """
    buffer = io.BytesIO()
    torch.save(data, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())
    return hashlib.sha256(buffer.getbuffer()).hexdigest()


def save_model(
    folder: Path,
    backbone: Backbone,
    head: DegradationClassifier | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Write a backbone, and the head if there is one, to a folder that `load_model` reads.

    Args:
        folder: Gets `config.json`, `model.safetensors` and with a head `head.safetensors`.
        backbone: The network; one that is not registered can only be read back into one like it.
        head: Its classifier.
        dtype: Storage type; float16 halves the size and rounds to three digits.
        details: Anything else worth keeping in the config, such as the recipe: plain data.

    Raises:
        InvalidSetting: If the details are no plain data, or would overwrite what the model is loaded by.
        OutputError: If the folder cannot be written to.
    """
    config: dict[str, Any] = {name: getattr(backbone, name, None) for name in ("variant", "overrides")}
    taken = {*config, "head"} & {*(details or {})}
    if taken:
        raise InvalidSetting(f"expected other details than {', '.join(sorted(taken))}, which the model is loaded by")
    if head is not None:
        options = {"expansion": head.expansion, "norm": head.norm, "labels": list(head.labels)}
        config["head"] = {"num_classes": head.num_classes} | options
    config |= details or {}
    try:
        json.dumps(config)  # before anything is written
    except (TypeError, ValueError) as error:
        raise InvalidSetting(f"expected plain data as details of a model: {error}") from None
    write_tensors(folder / MODEL_FILE, _stored(backbone, dtype))
    if head is not None:
        write_tensors(folder / HEAD_FILE, _stored(head, dtype))
    write_json(folder / CONFIG_FILE, config)


def _stored(module: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    # Counters, as batch norm has them, stay whole numbers.
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in module.state_dict().items()}


def load_model(
    folder: Path, *, with_head: bool = True, backbone: Backbone | None = None
) -> tuple[Backbone, DegradationClassifier | None, dict[str, Any]]:
    """Read what `save_model` wrote: backbone, head (or None) and config, in evaluation mode.

    Args:
        folder: The model folder.
        with_head: Whether to read the head, if there is one; its file need not be there otherwise.
        backbone: Network to load the weights into, in place of one made as the config says.

    Raises:
        CheckpointMismatch: If files are missing, damaged or do not fit each other.
    """
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        state = read_tensors(folder / MODEL_FILE)
        if backbone is None:
            backbone = _build_backbone(config, state, folder)
        head = None
        if with_head and "head" in config:
            head = DegradationClassifier(backbone.feature_channels, **config["head"]).eval()
    except CheckpointMismatch:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CheckpointMismatch(f"expected a model folder with a valid {CONFIG_FILE}, got {folder}: {error}") from None
    load_weights(backbone, state, source=folder / MODEL_FILE)
    if head is not None:
        load_weights(head, read_tensors(folder / HEAD_FILE), source=folder / HEAD_FILE)
    return backbone.eval(), head, config


def _build_backbone(config: Mapping[str, Any], state: Mapping[str, Tensor], folder: Path) -> Backbone:
    if config["variant"] is None:
        raise CheckpointMismatch(
            f"{folder} has the weights of an unregistered network; register it with register_backbone before "
            "training, or load them into one with dcpt.checkpoint.load_model(folder, backbone=...)"
        )
    with suppress(InvalidSetting), torch.device("meta"):  # before a stray config asks for more memory than there is
        check_fit(create_backbone(config["variant"], **config["overrides"]), state, source=folder / MODEL_FILE)
    return create_backbone(config["variant"], **config["overrides"])


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        CheckpointMismatch: If the file is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointMismatch(f"cannot read weights from {path}: {error}") from None


def hash_weights(network: nn.Module) -> str:
    """Return one hash of a network's class and all its values."""
    digest = hashlib.sha256(type(network).__qualname__.encode())
    for name, value in network.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def load_weights(module: nn.Module, state: Mapping[str, Tensor], *, source: object) -> None:
    """Load a state dict strictly: every name, every shape, every value finite.

    Raises:
        CheckpointMismatch: As `check_fit`.
    """
    check_fit(module, state, source=source)
    module.load_state_dict(state)


def check_fit(module: nn.Module, state: Mapping[str, Tensor], *, source: object) -> None:
    """Compare a state dict with a module, which may be on the meta device.

    Raises:
        CheckpointMismatch: With what is missing, unexpected, mis-shaped or not finite.
    """
    expected = module.state_dict()
    problems = [f"missing {name}" for name in expected if name not in state]
    problems += [f"unexpected {name}" for name in state if name not in expected]
    for name in (name for name in expected if name in state):
        if expected[name].shape != state[name].shape:
            problems.append(f"{name} is {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}")
        elif expected[name].is_floating_point() and state[name].dtype not in FLOATS:
            problems.append(f"{name} has values of type {state[name].dtype}")
        elif not torch.isfinite(state[name]).all():
            problems.append(f"{name} has values that are not finite")
    if problems:
        shown = "; ".join(problems[:4]) + (f"; and {len(problems) - 4} more" if len(problems) > 4 else "")
        raise CheckpointMismatch(f"weights from {source} do not fit {type(module).__name__}: {shown}")
