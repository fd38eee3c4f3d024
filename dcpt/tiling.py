"""Pictures of any size: pad to a multiple, split into overlapping tiles, blend. Pure functions."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dcpt.errors import InvalidSetting


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


def blend_weights(length: int, start: int, total: int, overlap: int) -> Tensor:
    """Return the weights of a tile along one side, (length,): 1, with ramps at inner borders."""
    position = torch.arange(length, dtype=torch.float32) + 0.5
    weights = torch.ones(length)
    if start > 0:
        weights = torch.minimum(weights, position / overlap)
    if start + length < total:
        weights = torch.minimum(weights, position.flip(0) / overlap)
    return weights


def check_tiles(multiple: int, tile_size: int, overlap: int) -> None:
    """Raise InvalidSetting unless tiles of this size can overlap this much and still advance."""
    if overlap < 1 or tile_size // multiple * multiple - overlap < multiple:
        raise InvalidSetting(
            f"expected an overlap of at least 1 and a tile of at least {max(overlap, 1) + 2 * multiple - 1} "
            f"pixels, got an overlap of {overlap} and a tile of {tile_size}"
        )


def apply_tiled(
    network: Callable[[Tensor], Tensor], x: Tensor, *, multiple: int, tile_size: int, overlap: int
) -> Tensor:
    """Run a network over pictures of any size, whole or in overlapping blended tiles.

    Args:
        network: Maps (B, 3, h, w) to the same shape; h and w are multiples of `multiple`.
        x: Pictures, (B, 3, H, W), of any size and on any device.
        multiple: What the network wants sides to be multiples of.
        tile_size: Largest side given to the network, in pixels, rounded down to a multiple. A
            picture that fits is processed whole.
        overlap: Pixels that neighbouring tiles share; weights rise linearly over them.

    Returns:
        The network's output, (B, 3, H, W).

    Raises:
        InvalidSetting: If the tile is smaller than a multiple plus the overlap.
    """
    check_tiles(multiple, tile_size, overlap)
    tile_size = tile_size // multiple * multiple
    height, width = x.shape[-2:]
    x = pad_to_multiple(x, multiple)
    rows, columns = (tile_starts(side, tile_size, overlap, multiple) for side in x.shape[-2:])
    if len(rows) == len(columns) == 1:
        return network(x)[..., :height, :width]
    total, weight = torch.zeros_like(x), torch.zeros_like(x[:1, :1])
    for top in rows:
        for left in columns:
            place = (..., slice(top, top + tile_size), slice(left, left + tile_size))
            tile = network(x[place])
            vertical = blend_weights(tile.shape[-2], top, x.shape[-2], overlap)
            horizontal = blend_weights(tile.shape[-1], left, x.shape[-1], overlap)
            share = (vertical[:, None] * horizontal).to(x)
            total[place] += share * tile.to(x)
            weight[place] += share
    return (total / weight)[..., :height, :width]
