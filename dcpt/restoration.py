"""Restore pictures: one call, any kind of picture, any size."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from dcpt.backbones import Backbone
from dcpt.device import pick_device
from dcpt.diagnosis import Diagnosis
from dcpt.diagnosis import diagnose as diagnose_picture
from dcpt.errors import CheckpointMismatch, InvalidSetting, OutOfMemory
from dcpt.hub import from_pretrained
from dcpt.image import read_picture
from dcpt.memory import free_memory, is_out_of_memory, release_memory
from dcpt.steering import adjust_strength, check_choice, steer
from dcpt.strips import Storage
from dcpt.tiling import apply_exact, apply_tiled, check_tiles, choose_tile_size, smallest_tile
from dcpt.weights import DEFAULT_WEIGHTS, list_weights

Precision = Literal["float32", "bfloat16", "float16"]
FREE_SHARE = 0.5  # of the free memory, to be planned with: an estimate may be wrong, and others want some
LARGEST_BATCH = 8  # tiles


@dataclass(frozen=True)
class Restoration:
    """What became of a picture.

    Attributes:
        pixels: The restored picture, like the one given; if nothing was to be done, the one given.
        diagnosis: What was wrong, if asked for or needed.
        untouched: Whether the picture was left alone: found clean, or free of what was to be removed.
    """

    pixels: Tensor
    diagnosis: Diagnosis | None = None
    untouched: bool = False


class Restorer:
    """A loaded network on a device, ready to restore many pictures; several threads may share it.

    As a context manager it frees the network in the end.

    Args:
        model: Name of weights, a model folder, or a backbone, which is then moved to the device and
            switched to evaluation mode.
        device: "cpu", "cuda", "mps" or a torch device; default the fastest there is.
        tile_size: Pictures with a longer side than this, in pixels, are processed in tiles. Default:
            1024, or less if the free memory asks for it.
        overlap: Pixels that neighbouring tiles share.
        exact: Give the picture that the network gives as a whole, without tiles, layer by layer and
            strip by strip; what does not fit into memory goes to temporary files.
        precision: "float32", or "bfloat16" or "float16", meant for GPUs. What they cannot hold is
            computed again in "float32".
        strength: From 0, nothing, to 1, all that the network does; see `adjust_strength`.
        only: Degradations to remove, as far as they can be told apart; default all. See `steer`.
        keep: Degradations to leave in.
        protect_clean: Leave a picture alone that a diagnosis finds clean.

    Raises:
        UnknownName: If there are no such weights or degradations.
        CheckpointMismatch: If the weights are damaged.
        InvalidSetting: If the device does not exist, the tiles are too small, a setting is out of
            range, or the backbone cannot do the exact mode.
    """

    def __init__(
        self,
        model: str | Path | Backbone = DEFAULT_WEIGHTS,
        *,
        device: torch.device | str | None = None,
        tile_size: int | None = None,
        overlap: int = 64,
        exact: bool = False,
        precision: Precision = "float32",
        strength: float = 1.0,
        only: Sequence[str] = (),
        keep: Sequence[str] = (),
        protect_clean: bool = False,
    ) -> None:
        check_choice(only, keep)
        if not 0 <= strength <= 1:
            raise InvalidSetting(f"expected a strength from 0 to 1, got {strength}")
        if precision not in get_args(Precision) or (exact and precision != "float32"):
            raise InvalidSetting(
                f"expected precision {', '.join(get_args(Precision))}, exact: the first; got {precision}"
            )
        self.device = pick_device(device)
        backbone = model if isinstance(model, Backbone) else from_pretrained(model)
        if exact and not backbone.supports_stored_maps:
            raise InvalidSetting(f"expected a backbone with an exact mode, got {type(backbone).__name__}; use tiles")
        self._backbone: Backbone | None = backbone.to(self.device).eval()
        self.tile_size, self.overlap, self.exact, self.precision = tile_size, overlap, exact, precision
        self.strength, self.only, self.keep = strength, tuple(only), tuple(keep)
        self.protect_clean = protect_clean
        self._smallest_tile = smallest_tile(backbone.size_multiple, overlap)
        check_tiles(backbone.size_multiple, self._smallest_tile if tile_size is None else tile_size, overlap)
        self._passes, self._turn = 0, threading.Lock()

    def __enter__(self) -> Restorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._backbone = None
        release_memory(self.device)

    @property
    def backbone(self) -> Backbone:
        """The network; InvalidSetting once the restorer is closed."""
        if self._backbone is None:
            raise InvalidSetting("expected an open restorer, got one closed by its `with` block; make another")
        return self._backbone

    def restore(self, image: Any) -> Any:
        """Restore a picture, a batch in a tensor, or a list or array of pictures; see the function `restore`."""
        if isinstance(image, np.ndarray) and image.ndim == 4:
            return np.stack([self.restore(picture) for picture in image]) if len(image) else image.copy()
        if isinstance(image, (list, tuple)):
            return [self.restore(picture) for picture in image]
        pixels, give_back = read_picture(image)
        return give_back(self.restore_batch(pixels))

    def restore_batch(self, lq: Tensor) -> Tensor:
        """Restore pictures, (B, 3, H, W), RGB in [0, 1], of any size; the result is clamped to [0, 1]."""
        restored = [self.process(picture).pixels for picture in lq.split(1)]
        return torch.cat(restored) if len(restored) > 1 else restored[0]

    @torch.no_grad()
    def process(self, lq: Tensor, *, diagnose: bool = False) -> Restoration:
        """Restore a picture and tell what was done.

        Args:
            lq: One picture, (1, 3, H, W), RGB in [0, 1], of any size.
            diagnose: Whether to tell what is wrong in any case.

        Raises:
            OutOfMemory: If there is not enough memory even for small tiles.
            OutputError: If there is no room for the temporary files of the exact mode.
            CheckpointMismatch: If the network gives what is no number.
        """
        diagnosis = None
        if diagnose or self.only or self.keep or self.protect_clean:
            diagnosis = diagnose_picture(lq, device=self.device)
        if diagnosis and diagnosis.clean and self.protect_clean:
            return Restoration(lq, diagnosis, untouched=True)
        restored = self._apply(lq)
        if diagnosis and (self.only or self.keep):
            restored = steer(lq, restored, diagnosis, only=self.only, keep=self.keep)
            if restored is lq:
                return Restoration(lq, diagnosis, untouched=True)
        return Restoration(adjust_strength(lq, restored, self.strength), diagnosis)

    def _apply(self, lq: Tensor) -> Tensor:
        """Run the network over a picture of any size; clamp the result."""
        with self._turn:
            self._passes += 1
        try:
            return self._apply_exact(lq) if self.exact else self._apply_tiled(lq)
        finally:
            with self._turn:
                self._passes -= 1

    def _plan_memory(self, device: torch.device) -> float:
        """Return the bytes to plan with, of which threads that work at the same time get a part each."""
        return FREE_SHARE * free_memory(device) / max(1, self._passes)

    def _apply_tiled(self, lq: Tensor) -> Tensor:
        pixel_memory, free = self.backbone.estimate_memory(self.device), self._plan_memory(self.device)
        smallest = self._smallest_tile
        tile_size = self.tile_size or choose_tile_size(*lq.shape[-2:], pixel_memory, free, smallest=smallest)
        batch_size = 1
        if self.device.type != "cpu":
            batch_size = max(1, min(LARGEST_BATCH, int(free / (pixel_memory * tile_size**2))))
        while True:
            try:
                return apply_tiled(
                    self._pass,
                    lq,
                    multiple=self.backbone.size_multiple,
                    tile_size=tile_size,
                    overlap=self.overlap,
                    batch_size=batch_size,
                ).clamp_(0, 1)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            release_memory(self.device)
            if batch_size == 1:
                tile_size = self._halve(min(tile_size, max(lq.shape[-2:])))
            batch_size = 1

    def _halve(self, tile_size: int) -> int:
        if tile_size // 2 < self._smallest_tile:
            raise OutOfMemory(
                f"not even tiles of {tile_size} pixels fit into the memory of {self.device}; "
                "close other programs, choose a smaller overlap, a smaller model or another device"
            )
        return tile_size // 2

    def _apply_exact(self, lq: Tensor) -> Tensor:
        for memory in (self._plan_memory(torch.device("cpu")), 0):
            storage = Storage(self.device, memory=int(memory))
            try:
                restored = apply_exact(self.backbone, lq, multiple=self.backbone.size_multiple, storage=storage)
                return check_finite(restored).clamp_(0, 1)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            release_memory(self.device)
        raise OutOfMemory(f"the exact mode does not fit into the memory of {self.device}; use tiles")

    def _pass(self, tiles: Tensor) -> Tensor:
        """Run the network once; what half precision cannot hold, in full precision."""
        x = tiles.to(self.device)
        if self.precision != "float32":
            with torch.autocast(self.device.type, getattr(torch, self.precision)):
                y = self.backbone(x).float()
            if y.isfinite().all():
                return y.to(tiles)
        return check_finite(self.backbone(x)).to(tiles)


def check_finite(restored: Tensor) -> Tensor:
    """Return pictures, or raise CheckpointMismatch if there is a value that is no number."""
    if not all(part.isfinite().all() for part in restored.split(64, dim=2)):
        raise CheckpointMismatch("expected numbers from the network, got NaN or infinity; its weights may be damaged")
    return restored


def restore(
    image: Any,
    *,
    model: str | Path | Backbone = DEFAULT_WEIGHTS,
    device: torch.device | str | None = None,
    diagnose: bool = False,
    **settings: Any,
) -> Any:
    """Remove haze, rain, snow, noise, blur, compression, darkness, mosaics or scratches from a picture.

    Args:
        image: A path, the bytes of a file, a PIL image, an array (H, W[, 3 or 4]) or (B, H, W, 3 or 4)
            of uint8, uint16 or floats in [0, 1], a tensor ([B,] 3, H, W) of uint8 or floats in
            [0, 1], or a list of these. Colour order is RGB.
        model: Name of weights, a model folder, or a backbone. The default needs no download.
        device: Where to compute; default the fastest there is.
        diagnose: Tell what was wrong, too, as `dcpt.diagnose(image)` does; for one picture.
        **settings: Others of `Restorer`, such as `exact=True`, `strength=0.7` or `keep=["haze"]`.

    Returns:
        The restored picture, same size and kind as `image` (for a path, a PIL image).
        Transparency is untouched, grey stays grey. With `diagnose`, this and the diagnosis.

    Raises:
        InvalidImage: If it is not a readable picture.
        UnknownName: If there is no such model.
        DcptError: As those of `Restorer`.
    """
    # Only the bundled weights are kept: a folder may change on disk, a backbone in its owner's hands.
    known = isinstance(model, str) and model in list_weights()
    backbone = _bundled_backbone(model, device=device) if known else model
    restorer = Restorer(backbone, device=device, **settings)
    if not diagnose:
        return restorer.restore(image)
    pixels, give_back = read_picture(image)
    restoration = restorer.process(pixels, diagnose=True)
    return give_back(restoration.pixels), restoration.diagnosis


@functools.lru_cache(maxsize=2)
def _bundled_backbone(name: str, *, device: torch.device | str | None) -> Backbone:
    return from_pretrained(name, device=pick_device(device))
