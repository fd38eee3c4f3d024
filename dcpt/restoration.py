"""Restore pictures: one call, any kind of picture, any size."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import Tensor

from dcpt.backbones import Backbone
from dcpt.device import pick_device
from dcpt.diagnosis import Diagnosis
from dcpt.diagnosis import diagnose as diagnose_picture
from dcpt.hub import from_pretrained
from dcpt.image import read_picture
from dcpt.tiling import apply_tiled, check_tiles
from dcpt.weights import DEFAULT_WEIGHTS, list_weights


class Restorer:
    """A loaded network on a device, ready to restore many pictures.

    Args:
        model: Name of weights, a model folder, or a backbone, which is then moved to the device and
            switched to evaluation mode.
        device: "cpu", "cuda", "mps" or a torch device; default the fastest there is.
        tile_size: Pictures with a longer side than this, in pixels, are processed in tiles.
        overlap: Pixels that neighbouring tiles share.

    Raises:
        UnknownName: If there are no such weights.
        CheckpointMismatch: If the weights are damaged.
        InvalidSetting: If the device does not exist or the tiles are too small.
    """

    def __init__(
        self,
        model: str | Path | Backbone = DEFAULT_WEIGHTS,
        *,
        device: torch.device | str | None = None,
        tile_size: int = 1024,
        overlap: int = 64,
    ) -> None:
        self.device = pick_device(device)
        backbone = model if isinstance(model, Backbone) else from_pretrained(model)
        self.backbone = backbone.to(self.device).eval()
        self.tile_size, self.overlap = tile_size, overlap
        check_tiles(self.backbone.size_multiple, tile_size, overlap)

    def restore(self, image: Any) -> Any:
        """Restore one picture, or a batch in a tensor; see the function `restore`."""
        pixels, give_back = read_picture(image)
        return give_back(self.restore_batch(pixels))

    @torch.inference_mode()
    def restore_batch(self, lq: Tensor) -> Tensor:
        """Restore pictures, (B, 3, H, W), RGB in [0, 1], of any size; the result is clamped to [0, 1]."""
        restored = apply_tiled(
            lambda tile: self.backbone(tile.to(self.device)),
            lq,
            multiple=self.backbone.size_multiple,
            tile_size=self.tile_size,
            overlap=self.overlap,
        )
        return restored.to(lq).clamp(0, 1)


@overload
def restore(
    image: Any,
    *,
    model: str | Path | Backbone = ...,
    device: torch.device | str | None = ...,
    diagnose: Literal[False] = ...,
) -> Any: ...
@overload
def restore(
    image: Any,
    *,
    model: str | Path | Backbone = ...,
    device: torch.device | str | None = ...,
    diagnose: Literal[True],
) -> tuple[Any, Diagnosis]: ...
def restore(
    image: Any,
    *,
    model: str | Path | Backbone = DEFAULT_WEIGHTS,
    device: torch.device | str | None = None,
    diagnose: bool = False,
) -> Any | tuple[Any, Diagnosis]:
    """Remove haze, rain, snow, noise, blur, compression, darkness, mosaics or scratches from a picture.

    Args:
        image: A path, the bytes of a file, a PIL image, an array (H, W[, 3 or 4]) or a tensor
            ([B,] 3, H, W); floats in [0, 1], or integers of full range. Colour order is RGB.
        model: Name of weights, a model folder, or a backbone. The default needs no download.
        device: Where to compute; default the fastest there is.
        diagnose: Tell what was wrong, too, as `dcpt.diagnose(image)` does; for one picture.

    Returns:
        The restored picture, same size and kind as `image` (for a path, a PIL image).
        Transparency is untouched, grey stays grey. With `diagnose`, this and the diagnosis.

    Raises:
        InvalidImage: If it is not a readable picture.
        UnknownName: If there is no such model.
    """
    # Only the bundled weights are kept: a folder may change on disk, a backbone in its owner's hands.
    load = _bundled_restorer if model in list_weights() else Restorer
    restorer = load(model, device=device)
    if not diagnose:
        return restorer.restore(image)
    diagnosis = diagnose_picture(image, device=device)
    return restorer.restore(image), diagnosis


@functools.lru_cache(maxsize=2)
def _bundled_restorer(name: str, *, device: torch.device | str | None) -> Restorer:
    return Restorer(name, device=device)
