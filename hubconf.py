"""Entry points for torch.hub, one per backbone: `torch.hub.load("dcpt-ir/dcpt", "dcpt_promptir")`."""

from collections.abc import Callable as _Callable
from typing import Any as _Any

from dcpt import create_backbone as _create_backbone
from dcpt import from_pretrained as _from_pretrained
from dcpt import list_backbones as _list_backbones
from dcpt import list_weights as _list_weights
from dcpt import restore as dcpt_restore  # noqa: F401
from dcpt.backbones.base import BACKBONES as _BACKBONES
from dcpt.backbones.base import backbone_class as _backbone_class
from dcpt.errors import CheckpointMismatch as _CheckpointMismatch

dependencies = ["torch", "huggingface_hub", "safetensors", "einops", "numpy", "PIL"]
dependencies += ["click", "tqdm", "yaml", "filelock"]


def _entry_point(variant: str) -> _Callable[..., _Any]:
    def create(pretrained: bool | str = False, **options: _Any) -> _Any:
        if pretrained is False:
            return _create_backbone(variant, **options)
        if not isinstance(pretrained, str):
            raise _CheckpointMismatch(f"expected pretrained to be False, a name or a path, got {pretrained!r}")
        backbone = _from_pretrained(pretrained, **options)
        other_size = pretrained in _list_weights() and backbone.variant != variant
        if other_size or not isinstance(backbone, _backbone_class(variant)):
            raise _CheckpointMismatch(f"expected weights of {variant}, got {backbone.variant} in {pretrained}")
        return backbone

    create.__name__ = f"dcpt_{variant}"
    create.__doc__ = f"""{_BACKBONES[variant].__doc__}

    Args:
        pretrained: False for random weights; the name of weights (`dcpt list`), a model folder or a
            checkpoint file to load them, in evaluation mode.
        **options: Options of the constructor; with a checkpoint file those that it does not tell.
    """
    return create


for _variant in _list_backbones():
    if not _variant.endswith("_test"):
        globals()[f"dcpt_{_variant}"] = _entry_point(_variant)
