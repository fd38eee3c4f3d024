"""Entry points for torch.hub: `torch.hub.load("dcpt-ir/dcpt", "dcpt_nafnet", pretrained=False)`."""

dependencies = ["torch", "safetensors", "PIL", "numpy", "click", "tqdm", "yaml"]

from typing import Any  # noqa: E402

from dcpt import create_backbone as _create_backbone  # noqa: E402
from dcpt import from_pretrained as _from_pretrained  # noqa: E402
from dcpt import restore as dcpt_restore  # noqa: E402, F401
from dcpt.errors import InvalidSetting as _InvalidSetting  # noqa: E402


def _entry(variant: str, pretrained: bool | str, overrides: dict[str, Any]) -> Any:
    if not pretrained:
        return _create_backbone(variant, **overrides)
    if overrides:
        raise _InvalidSetting(f"expected no options beside pretrained weights, got {', '.join(overrides)}")
    if pretrained is True:
        raise _InvalidSetting("expected the name of weights or a folder; see dcpt.list_weights()")
    return _from_pretrained(pretrained)


def dcpt_nafnet(pretrained: bool | str = False, **overrides: Any) -> Any:
    """The official 67.9 M parameter NAFNet; `pretrained` is False, a name of weights or a folder."""
    return _entry("nafnet", pretrained, overrides)


def dcpt_nafnet_small(pretrained: bool | str = True, **overrides: Any) -> Any:
    """The small NAFNet with the bundled weights; `pretrained` may be another name, a folder or False."""
    return _entry("nafnet_small", "nafnet-small-10d" if pretrained is True else pretrained, overrides)
