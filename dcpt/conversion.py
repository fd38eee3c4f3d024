"""Checkpoints of other programs: recognised, read strictly without executing anything, and written."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dcpt.backbones import Backbone, create_backbone
from dcpt.backbones.base import backbone_class
from dcpt.checkpoint import FLOATS, check_fit, read_tensors, write_pickled, write_tensors
from dcpt.dialects import FAMILIES, Dialect, Options, recognise_family
from dcpt.errors import CheckpointMismatch, InvalidSetting

PICKLED_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin")
CHECKPOINT_SUFFIXES = (*PICKLED_SUFFIXES, ".safetensors")

# Averaged weights first; then where BasicSR, Lightning and others put theirs.
CONTAINERS = ("params_ema", "params", "state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "net.", "model.", "_orig_mod.")


@dataclass(frozen=True)
class Checkpoint:
    """A recognised checkpoint.

    Attributes:
        family: Network, the name of a registered backbone.
        dialect: "published", "dcpt" or "maskdcpt".
        state: Tensors under their published names, without those that nothing uses.
        found: Constructor options read off names and shapes.
        assumed: Options that they do not tell, as the dialect usually has them.
        source: Where it was read.
    """

    family: str
    dialect: Dialect
    state: dict[str, Tensor]
    found: Options
    assumed: Options
    source: Path

    def build(self, **options: Any) -> Backbone:
        """Create the network and load the weights, in evaluation mode.

        Args:
            **options: Constructor options in place of the assumed ones, such as `attention`.

        Raises:
            CheckpointMismatch: With the names that are missing, unexpected, of another shape or
                not finite, or with the option that contradicts the weights.
            UnknownName: If the network has no such option.

        Warns:
            UserWarning: With what had to be assumed, if checkpoints really differ in it.
        """
        for name in sorted(options.keys() & self.found.keys()):
            if plain(options[name]) != plain(self.found[name]):
                raise CheckpointMismatch(
                    f"{self.source} has {name}={self.found[name]!r}, got {name}={options[name]!r}; leave it out"
                )
        uncertain = (FAMILIES[self.family].uncertain & self.assumed.keys()) - options.keys()
        if uncertain:
            guess = ", ".join(f"{name}={self.assumed[name]!r}" for name in sorted(uncertain))
            warnings.warn(
                f"the weights in {self.source} do not tell {' and '.join(sorted(uncertain))}; "
                f"assumed {guess}; if that is wrong, give the right value as an argument, or with --option",
                stacklevel=3,
            )
        usual = backbone_class(self.family).default_options()
        chosen = self.found | self.assumed | options
        differing = {name: value for name, value in chosen.items() if usual.get(name, ...) != value}
        with torch.device("meta"):  # before a stray name asks for more memory than there is
            check_fit(create_backbone(self.family, **differing), self.state, source=self.source)
        backbone = create_backbone(self.family, **differing)
        backbone.load_state_dict(self.state)
        return backbone.eval()


def plain(option: Any) -> Any:
    """Return an option such that equal ones compare equal, lists and tuples among them."""
    return tuple(option) if isinstance(option, (list, tuple)) else option


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read and recognise a checkpoint of any dialect; nothing in the file is ever executed.

    Args:
        path: A .safetensors file, or a pickled one (.pth, .pt, .ckpt, .bin) of nothing but
            tensors and plain data.

    Raises:
        CheckpointMismatch: If the file is missing, damaged, holds more than data, or is of no
            network that this package has.
    """
    path = Path(path)
    state = strip_prefixes(unwrap(read_data(path), path))
    family_name = recognise_family(state)
    if family_name is None:
        raise CheckpointMismatch(
            f"expected a checkpoint of one of {', '.join(FAMILIES)}, got other weights in {path}: "
            f"{', '.join(list(state)[:3])} ..."
        )
    family = FAMILIES[family_name]
    dialect = family.read_dialect(state)
    try:
        state = family.to_published(state)
        found = family.read_options(state)
    except KeyError as error:
        raise CheckpointMismatch(f"the {family_name} checkpoint {path} is incomplete: missing {error}") from None
    except (ArithmeticError, LookupError, StopIteration, TypeError, ValueError) as error:
        raise CheckpointMismatch(f"expected a whole {family_name} in {path}: {error}") from None
    assumed = {k: v for k, v in family.assume_options(dialect, found).items() if k not in found}
    used = {name: tensor for name, tensor in state.items() if not family.is_unused(name)}
    return Checkpoint(family_name, dialect, used, found, assumed, path)


def read_data(path: Path) -> Mapping[str, Any]:
    """Read what a checkpoint file holds, safely."""
    if path.suffix.lower() == ".safetensors":
        return read_tensors(path)
    if path.suffix.lower() not in PICKLED_SUFFIXES:
        raise CheckpointMismatch(f"expected a file ending in {', '.join(CHECKPOINT_SUFFIXES)}, got {path}")
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointMismatch(
            f"refused {path}: it is no checkpoint, or holds objects besides tensors and plain data, "
            "which could run code"
        ) from None
    except Exception as error:  # torch raises many kinds for damaged files
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointMismatch(f"cannot read weights from {path}: {reason}") from None
    if not isinstance(data, Mapping):
        raise CheckpointMismatch(f"expected named tensors in {path}, got {type(data).__name__}")
    return data


def unwrap(data: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """Return the state dict inside the containers that training programs put around it."""
    for _ in CONTAINERS:  # one inside the other, but not for ever
        inner = next((c for c in CONTAINERS if isinstance(data.get(c), Mapping) and data[c]), None)
        data = data if inner is None else data[inner]
    strange = [str(name) for name, value in data.items() if not (isinstance(name, str) and is_weight(value))]
    if strange or not data:
        raise CheckpointMismatch(f"expected named tensors in {path}, got {', '.join(strange[:3]) or 'nothing'}")
    return dict(data)


def is_weight(value: Any) -> bool:
    """Say whether something from a file is a tensor of real numbers, or of positions in a table."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized or value.is_meta:
        return False
    return value.dtype in (*FLOATS, torch.int64)


def strip_prefixes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove what wrappers put in front of every name, one inside the other."""
    names = list(state)
    for _ in names:
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in names)), None)
        if prefix is None:
            break
        names = [name.removeprefix(prefix) for name in names]
    return dict(zip(names, state.values(), strict=True))


def load_checkpoint(path: str | Path, **options: Any) -> Backbone:
    """Read a checkpoint of any family and dialect and build its network, in evaluation mode.

    Args:
        path: The file.
        **options: Constructor options that the weights do not tell, such as `attention="softmax"`.

    Raises:
        CheckpointMismatch: As `read_checkpoint` and `Checkpoint.build`.
        UnknownName: If the network has no such option.
    """
    return read_checkpoint(path).build(**options)


def export_checkpoint(backbone: Backbone, path: str | Path, *, dialect: Dialect = "published") -> None:
    """Write a backbone for other programs, under the names of its published network or of DCPT.

    Args:
        backbone: A network of one of the four families, of any size.
        path: File to write: .safetensors, or .pth (tensors below `params`, as BasicSR has them).
        dialect: "published" (spandrel, chaiNNer, ComfyUI and the authors' code) or "dcpt".

    Raises:
        CheckpointMismatch: If the other program would compute something else, with the option
            that it does not know.
        InvalidSetting: If there is no such dialect.
        OutputError: If the file cannot be written.
    """
    path, state = Path(path), backbone.state_dict()
    family = FAMILIES.get(recognise_family(state) or "")
    if family is None:
        raise CheckpointMismatch(f"expected one of {', '.join(FAMILIES)} to export, got {type(backbone).__name__}")
    try:
        options = family.read_options(state) | backbone.silent_options
    except ValueError as error:
        raise CheckpointMismatch(f"cannot export {type(backbone).__name__}: {error}") from None
    if dialect not in ("published", "dcpt"):
        raise InvalidSetting(f"expected the dialect to be 'published' or 'dcpt', got {dialect!r}")
    for name, value in getattr(family, dialect).items():
        if options.get(name) != value:
            raise CheckpointMismatch(
                f"the {dialect} network always has {name}={value!r}, this one {name}={options.get(name)!r}: "
                "there the same weights would give another picture"
            )
    state = family.complete(state, options) if dialect == "published" else family.to_dcpt(state)
    if path.suffix.lower() == ".safetensors":
        write_tensors(path, state)
        return
    if path.suffix.lower() not in PICKLED_SUFFIXES:
        raise InvalidSetting(f"expected a file ending in {', '.join(CHECKPOINT_SUFFIXES)}, got {path.name}")
    write_pickled(path, {"params": {name: t.detach().cpu().contiguous() for name, t in state.items()}})
