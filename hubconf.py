"""Entry points for torch.hub: `torch.hub.load("dcpt-ir/dcpt", "dcpt_nafnet", pretrained=False)`."""

dependencies = ["torch", "safetensors", "PIL", "numpy", "click", "tqdm", "yaml"]

from typing import Any  # noqa: E402

from dcpt import create_backbone as _create_backbone  # noqa: E402
from dcpt import from_pretrained as _from_pretrained  # noqa: E402
from dcpt import restore as dcpt_restore  # noqa: E402, F401


def _entry(variant: str, pretrained: bool | str, overrides: dict[str, Any]) -> Any:
    return _from_pretrained(pretrained) if pretrained else _create_backbone(variant, **overrides)


def dcpt_nafnet(pretrained: bool | str = False, **overrides: Any) -> Any:
    """The official 67.9 M parameter NAFNet; `pretrained` is False, a name of weights or a folder."""
    return _entry("nafnet", pretrained, overrides)


def dcpt_nafnet_small(pretrained: bool | str = "nafnet-small-10d", **overrides: Any) -> Any:
    """The small NAFNet, by default with the bundled weights; `pretrained` as for `dcpt_nafnet`."""
    return _entry("nafnet_small", pretrained, overrides)
