"""Entry points for torch.hub, one per backbone: `torch.hub.load("dcpt-ir/dcpt", "dcpt_promptir")`."""

from collections.abc import Callable as _Callable
from typing import Any as _Any

from dcpt import create_backbone as _create_backbone
from dcpt import from_pretrained as _from_pretrained
from dcpt import list_backbones as _list_backbones
from dcpt import restore as dcpt_restore  # noqa: F401
from dcpt.backbones.base import BACKBONES as _BACKBONES
from dcpt.errors import CheckpointMismatch as _CheckpointMismatch
from dcpt.weights import DEFAULT_WEIGHTS as _DEFAULT_WEIGHTS

dependencies = ["torch", "safetensors", "einops", "numpy", "PIL", "click", "tqdm", "yaml"]


def _entry_point(variant: str) -> _Callable[..., _Any]:
    def create(pretrained: bool | str = False, **options: _Any) -> _Any:
        if not pretrained:
            return _create_backbone(variant, **options)
        name = _DEFAULT_WEIGHTS if pretrained is True else pretrained
        backbone = _from_pretrained(name, **options)
        wanted = type(_create_backbone(f"{variant.split('_')[0]}_test"))
        if not isinstance(backbone, wanted):
            raise _CheckpointMismatch(f"expected weights of {wanted.__name__}, got {type(backbone).__name__} in {name}")
        return backbone

    create.__name__ = f"dcpt_{variant}"
    create.__doc__ = f"""{_BACKBONES[variant].__doc__}

    Args:
        pretrained: False for random weights; the name of weights (`dcpt list`), a model folder or a
            checkpoint file to load them, in evaluation mode; True for the bundled {_DEFAULT_WEIGHTS}.
        **options: Options of the constructor; with a checkpoint file those that it does not tell.
    """
    return create


for _variant in _list_backbones():
    if not _variant.endswith("_test"):
        globals()[f"dcpt_{_variant}"] = _entry_point(_variant)
