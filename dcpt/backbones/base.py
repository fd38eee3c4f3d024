"""What every backbone promises, and the registry that creates them by name."""

from __future__ import annotations

import inspect
import tempfile
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from dcpt.errors import CheckpointMismatch, DcptError, InvalidImage, InvalidSetting
from dcpt.registry import Registry, unknown_name

Hook = bool | Literal["both"]
Output = Tensor | list[Tensor] | tuple[Tensor, list[Tensor]]


class Backbone(nn.Module):
    """A restoration network that can also hand out its decoder features.

    A subclass sets the first three attributes below, of the others those it has, and implements
    `forward`. Its stem and its output convolution may be anything; DCPT only needs the features.

    Attributes:
        feature_channels: Channels of each feature map, finest first.
        feature_strides: Input pixels per feature pixel, finest first.
        size_multiple: Height and width of the input must be multiples of this.
        block_types: Classes of the blocks that give (B, C, H, W), for masked pre-training.
        live_maps: How many maps of full resolution and as many channels as the finest feature are
            alive at the peak of a pass without gradients on the CPU, by which tiles are chosen.
        supports_stored_maps: Whether `forward` is written with `dcpt.strips.map_rows` throughout, so
            that it takes a `StoredMap` and the exact mode is possible.
        silent_options: Constructor options that change the result but leave no trace in the weights.
        variant: Name under which `create_backbone` made it, or None for an unregistered one.
        overrides: The options given to `create_backbone` on top of the variant's own.
    """

    feature_channels: tuple[int, ...]
    feature_strides: tuple[int, ...]
    size_multiple: int
    block_types: tuple[type[nn.Module], ...] = ()
    live_maps: float = 8
    supports_stored_maps: bool = False
    silent_options: dict[str, Any] = {}
    variant: str | None = None
    overrides: dict[str, Any] = {}

    def forward(self, x: Tensor, hook: Hook = False) -> Output:
        """Restore a batch, or return its features.

        Args:
            x: Pictures, (B, 3, H, W), RGB in [0, 1]; H and W multiples of `size_multiple`.
            hook: True returns the feature maps instead of the pictures and computes nothing
                beyond; "both" returns pictures and feature maps of one pass, which
                only DC-guided transfer and masked pre-training ask for.

        Returns:
            The restored pictures, same shape, not clamped; or with `hook=True` the list of
            feature maps, finest first, each (B, C, H / stride, W / stride); or the pair of them.

        Raises:
            InvalidImage: If the shape is wrong.
        """
        raise NotImplementedError

    def estimate_memory(self, device: torch.device) -> float:
        """Return about how many bytes per pixel of the picture a pass without gradients takes at its peak.

        Elsewhere than on the CPU blocks are not computed in strips, which takes twice as much.
        """
        return 4 * self.live_maps * self.feature_channels[0] * (1 if device.type == "cpu" else 2)

    def check_input(self, x: Tensor) -> None:
        """Raise InvalidImage unless `x` is a batch this backbone can take."""
        if x.ndim != 4 or x.shape[1] != 3:
            raise InvalidImage(f"expected a batch of RGB pictures (B, 3, H, W), got {tuple(x.shape)}")
        height, width = x.shape[-2:]
        if height % self.size_multiple or width % self.size_multiple:
            raise InvalidImage(
                f"expected sides that are multiples of {self.size_multiple}, got {height}x{width}; "
                "use dcpt.tiling.pad_to_multiple"
            )

    def save_pretrained(self, folder: str | Path, *, head: nn.Module | None = None, **details: Any) -> None:
        """Write a model folder: `config.json`, `model.safetensors` and with a head `head.safetensors`.

        Args:
            folder: Where to write it; `dcpt.from_pretrained(folder)` reads it.
            head: The `DegradationClassifier` that belongs to the network.
            **details: What else to keep in the config; a model card shows `licence` and `data`.

        Raises:
            CheckpointMismatch: If the network has no registered name to load it by.
            OutputError: If the folder cannot be written to.
        """
        from dcpt.checkpoint import save_model

        if self.variant is None:
            raise CheckpointMismatch("expected a backbone of create_backbone; register yours with register_backbone")
        save_model(Path(folder), self, head, details=details)

    def push_to_hub(
        self,
        repo: str,
        *,
        head: nn.Module | None = None,
        private: bool = False,
        token: str | None = None,
        **details: Any,
    ) -> str:
        """Upload the model to the Hub with a model card; `dcpt.from_pretrained(repo)` loads it.

        Args:
            repo: "organisation/name"; created if it does not exist.
            head: The `DegradationClassifier` that belongs to the network.
            private: Whether a new repository is for its owner alone.
            token: Access token in place of the stored one.
            **details: As for `save_pretrained`.

        Returns:
            The commit hash of the upload.

        Raises:
            CheckpointMismatch: If the network has no registered name to load it by.
            HubError: If the Hub refuses, or cannot be reached.
        """
        from dcpt.publishing import publish_folder

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, head=head, **details)
            return publish_folder(folder, repo, private=private, token=token)

    @classmethod
    def default_options(cls) -> dict[str, Any]:
        """Return the options of the constructor with their defaults."""
        return {name: option.default for name, option in inspect.signature(cls).parameters.items()}


Constructor = Callable[..., Backbone]
C = TypeVar("C", bound=Constructor)

BACKBONES: Registry[Constructor] = Registry("backbone")


def register_backbone(constructor: C) -> C:
    """Register a variant, a function `(**overrides) -> MyBackbone`, under its own name.

    The return annotation names the class whose options the variant accepts, so that a
    misspelt override is answered with the right spelling.

    Raises:
        ValueError: If the name is taken.
        InvalidSetting: If the function does not say what it returns.
    """
    if "return" not in constructor.__annotations__:
        raise InvalidSetting(f"expected {constructor.__name__} to declare the Backbone class that it returns")
    return BACKBONES.register(constructor.__name__)(constructor)


def create_backbone(name: str, **overrides: Any) -> Backbone:
    """Create a registered backbone with freshly initialised weights.

    Args:
        name: Variant, one of `list_backbones()`.
        **overrides: Constructor options that differ from the variant's own.

    Raises:
        UnknownName: If there is no such variant or option; the message has the nearest ones.
        InvalidSetting: If the options do not make a network.
    """
    constructor = BACKBONES[name]
    options = backbone_class(name).default_options()
    for option in overrides:
        if option not in options:
            raise unknown_name(f"option of backbone {name!r}:", option, options)
    try:
        backbone = constructor(**overrides)
    except (ArithmeticError, LookupError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, DcptError):
            raise
        raise InvalidSetting(f"cannot create backbone {name!r} with {overrides}: {error}") from error
    backbone.variant, backbone.overrides = name, overrides
    return backbone


def backbone_class(name: str) -> type[Backbone]:
    """Return the class that a registered variant is an instance of."""
    return typing.get_type_hints(BACKBONES[name])["return"]


def list_backbones() -> list[str]:
    """Return the names of all registered variants, in order of registration."""
    return list(BACKBONES)
