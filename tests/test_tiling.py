"""Padding, tiles and blending, against what is obvious."""

import pytest
import torch

from dcpt.errors import InvalidSetting
from dcpt.tiling import apply_tiled, blend_weights, pad_to_multiple, tile_starts


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (16, 16), (17, 31)])
def test_padding_reaches_the_multiple_and_keeps_the_picture(size):
    x = torch.rand(1, 3, *size)
    padded = pad_to_multiple(x, 16)
    assert all(side % 16 == 0 for side in padded.shape[-2:])
    assert torch.equal(padded[..., : size[0], : size[1]], x)


def test_padding_reflects_where_it_can():
    padded = pad_to_multiple(torch.arange(6.0).view(1, 1, 1, 6), 8)
    assert padded[0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 4, 3]


@pytest.mark.parametrize("length", [64, 72, 200, 1000])
def test_tiles_cover_the_side_overlap_enough_and_keep_the_phase(length):
    starts = tile_starts(length, 64, 16, 8)
    assert starts[0] == 0 and starts[-1] + 64 == max(length, 64)
    assert all(b - a <= 48 for a, b in zip(starts, starts[1:]))
    assert all(start % 8 == 0 for start in starts)


def test_weights_rise_only_at_inner_borders():
    assert blend_weights([0], 6, 2)[0].tolist() == [1] * 6
    first, middle, last = blend_weights([0, 4, 8], 6, 2)
    assert first.tolist() == [1, 1, 1, 1, 0.75, 0.25] and last.tolist() == first.flip(0).tolist()
    assert middle.tolist() == [0.25, 0.75, 1, 1, 0.75, 0.25]


def test_weights_of_tiles_sum_to_one_wherever_they_lie():
    starts = tile_starts(104, 64, 16, 8)  # the last two overlap by more than the others
    total = torch.zeros(104)
    for start, weight in zip(starts, blend_weights(starts, 64, 16)):
        total[start : start + 64] += weight
    assert torch.allclose(total, torch.ones(104))


@pytest.mark.parametrize("size", [(40, 40), (1, 1), (3, 500), (129, 65)])
def test_a_pointwise_network_cannot_tell_tiles_from_the_whole(size):
    x = torch.rand(2, 3, *size)
    seen = []

    def network(tile):
        seen.append(tile.shape[-2:])
        return tile**2 + 1

    result = apply_tiled(network, x, multiple=8, tile_size=64, overlap=16)
    assert torch.allclose(result, x**2 + 1, atol=1e-6)
    assert all(max(shape) <= 64 and shape[0] % 8 == shape[1] % 8 == 0 for shape in seen)


def test_a_convolution_shows_no_seam_inside_its_reach():
    weight = torch.rand(3, 3, 5, 5) / 75
    x = torch.rand(1, 3, 150, 140)

    def network(tile):
        return torch.nn.functional.conv2d(tile, weight, padding=2)

    whole = network(pad_to_multiple(x, 8))[..., :150, :140]
    tiled = apply_tiled(network, x, multiple=8, tile_size=64, overlap=32)
    # The two outermost pixels of a tile see its zero padding, but weigh 1/32 to 1/16 at most.
    assert (whole - tiled).abs().max() < 0.05
    assert (whole - tiled).abs().mean() < 0.002


def test_tiles_smaller_than_their_overlap_are_refused():
    with pytest.raises(InvalidSetting, match="overlap"):
        apply_tiled(lambda tile: tile, torch.rand(1, 3, 8, 8), multiple=8, tile_size=16, overlap=16)
