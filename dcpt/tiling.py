"""Pictures of any size: pad to a multiple, split into overlapping tiles, blend, or strip by strip. Pure functions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from dcpt.errors import InvalidSetting
from dcpt.strips import Storage, StoredMap

# Sides of tiles to choose from. Larger ones gain nothing, and pictures would depend on the machine.
TILE_SIZES = (1024, 768, 512, 384, 256, 192, 128)


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pad (B, C, H, W) at the right and bottom until both sides are multiples.

    By reflection, as the `dcpt` test protocol wants it; sides too short to reflect repeat
    their last row or column.
    """
    height, width = x.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    x = F.pad(x, (0, right, 0, 0), mode="reflect" if right < width else "replicate")
    return F.pad(x, (0, 0, 0, bottom), mode="reflect" if bottom < height else "replicate")


def tile_starts(length: int, tile_size: int, overlap: int, multiple: int) -> list[int]:
    """Return where tiles begin along a side, so that neighbours share at least `overlap` pixels.

    Every start is a multiple of `multiple`, as are `length` and `tile_size`: a network that
    shrinks its input, and a colour filter mosaic in it, then keep their phase.
    """
    if length <= tile_size:
        return [0]
    stride = (tile_size - overlap) // multiple * multiple
    return [*range(0, length - tile_size, stride), length - tile_size]


def blend_weights(starts: list[int], tile_size: int, overlap: int) -> list[Tensor]:
    """Return the weights of each tile along one side, (tile_size,): ramps at inner borders, in sum 1 everywhere."""
    position = torch.arange(tile_size, dtype=torch.float32) + 0.5
    ramp = (position / overlap).clamp(max=1)
    weights = [torch.ones(tile_size) for _ in starts]
    total = torch.zeros(starts[-1] + tile_size)
    for start, weight in zip(starts, weights):
        if start != starts[0]:
            weight *= ramp
        if start != starts[-1]:
            weight *= ramp.flip(0)
        total[start : start + tile_size] += weight
    return [weight / total[start : start + tile_size] for start, weight in zip(starts, weights)]


def check_tiles(multiple: int, tile_size: int, overlap: int) -> None:
    """Raise InvalidSetting unless tiles of this size can overlap this much and still advance."""
    if overlap < 1 or tile_size // multiple * multiple - overlap < multiple:
        raise InvalidSetting(
            f"expected an overlap of at least 1 and a tile of at least {max(overlap, 1) + 2 * multiple - 1} "
            f"pixels, got an overlap of {overlap} and a tile of {tile_size}"
        )


def smallest_tile(multiple: int, overlap: int) -> int:
    """Return the smallest tile that can overlap so much and still advance."""
    return (-(-overlap // multiple) + 1) * multiple


def choose_tile_size(height: int, width: int, bytes_per_pixel: float, free: float, *, smallest: int) -> int:
    """Return the largest of `TILE_SIZES` whose tiles of a picture fit into the free bytes, but at least `smallest`."""
    fitting = (s for s in TILE_SIZES if min(s, height) * min(s, width) * bytes_per_pixel <= free)
    return max(next(fitting, TILE_SIZES[-1]), smallest)


def apply_tiled(
    network: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    multiple: int,
    tile_size: int,
    overlap: int,
    batch_size: int = 1,
) -> Tensor:
    """Run a network over pictures of any size, whole or in overlapping blended tiles.

    Args:
        network: Maps (B, 3, h, w) to the same shape; h and w are multiples of `multiple`.
        x: Pictures, (B, 3, H, W), of any size and on any device.
        multiple: What the network wants sides to be multiples of.
        tile_size: Largest side given to the network, in pixels, rounded down to a multiple. A
            picture that fits is processed whole.
        overlap: Pixels that neighbouring tiles share; weights rise linearly over them.
        batch_size: Tiles given to the network at once.

    Returns:
        The network's output, (B, 3, H, W), where `x` is.

    Raises:
        InvalidSetting: If the tile is smaller than a multiple plus the overlap.
    """
    check_tiles(multiple, tile_size, overlap)
    tile_size = tile_size // multiple * multiple
    height, width = x.shape[-2:]
    if max(height, width) <= tile_size:
        return network(pad_to_multiple(x, multiple))[..., :height, :width].contiguous()
    sides = [-(-side // multiple) * multiple for side in (height, width)]
    starts = [tile_starts(side, tile_size, overlap, multiple) for side in sides]
    weights = [blend_weights(s, min(tile_size, side), overlap) for s, side in zip(starts, sides)]
    places = itertools.product(*(zip(s, w) for s, w in zip(starts, weights)))
    total = torch.zeros_like(x)
    for batch in batched(places, batch_size):
        slots = [tuple(slice(start, start + len(weight)) for start, weight in place) for place in batch]
        tiles = torch.cat([pad_to_multiple(x[(..., *slot)], multiple) for slot in slots])
        for slot, ((_, rows), (_, columns)), tile in zip(slots, batch, network(tiles).split(len(x))):
            target = total[(..., *slot)]
            share = (rows[:, None] * columns)[: target.shape[-2], : target.shape[-1]]
            target += tile.to(x)[..., : target.shape[-2], : target.shape[-1]] * share.to(x)
    return total


def batched(items: Iterator, size: int) -> Iterator[tuple]:
    """Yield tuples of up to `size` items."""
    while batch := tuple(itertools.islice(items, size)):
        yield batch


def apply_exact(network: Callable[[StoredMap], StoredMap], x: Tensor, *, multiple: int, storage: Storage) -> Tensor:
    """Run a network that is written with `dcpt.strips.map_rows` over whole pictures, with little memory.

    Args:
        network: Maps (B, 3, h, w) to the same shape; h and w are multiples of `multiple`.
        x: Pictures, (B, 3, H, W), of any size and on any device.
        multiple: What the network wants sides to be multiples of.
        storage: Where the maps between its layers are kept.

    Returns:
        What the network gives for the whole pictures, up to rounding; (B, 3, H, W), where `x` is.
    """
    height, width = x.shape[-2:]
    restored = network(storage.store(pad_to_multiple(x, multiple)))
    result = torch.empty_like(x)
    for top in range(0, height, 64):
        bottom = min(top + 64, height)
        result[:, :, top:bottom] = restored.read(top, bottom)[..., :width]
    return result
