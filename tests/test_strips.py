"""Maps strip by strip: in memory and on disk they are what the whole is."""

import errno
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from conftest import relative_error
from torch import nn

from dcpt import strips
from dcpt.backbones import create_backbone, list_backbones
from dcpt.errors import OutputError
from dcpt.strips import Storage, StoredMap, average_rows, map_rows, whole_maps
from dcpt.tiling import apply_exact

CPU = torch.device("cpu")
EVERYTHING = 2**40


def read(x):
    return x.read(0, x.shape[2]) if isinstance(x, StoredMap) else x


@pytest.fixture(params=["tensor", "memory", "disk"])
def keep(request, tmp_path, monkeypatch):
    """Turn a tensor into a map of one kind; whichever it is, it is computed in strips of eight rows."""
    monkeypatch.setattr(strips, "VALUES_AT_ONCE", 1)
    storage = Storage(CPU, memory=0 if request.param == "disk" else EVERYTHING, folder=tmp_path)
    return (lambda x: x) if request.param == "tensor" else storage.store


@torch.no_grad()
def test_a_convolution_gets_the_rows_around_its_strip(keep):
    x, convolution = torch.rand(2, 3, 29, 7), nn.Conv2d(3, 4, 5, padding=2)
    y = map_rows(convolution, keep(x), channels=4, halo=2)
    assert torch.allclose(read(y), convolution(x), atol=1e-6)


@torch.no_grad()
def test_sides_may_shrink_and_grow(keep):
    x, convolution = torch.rand(1, 4, 40, 6), nn.Conv2d(4, 4, 3, padding=1)
    small = map_rows(lambda x: F.pixel_unshuffle(convolution(x), 2), keep(x), channels=4, halo=2, multiple=2)
    assert torch.allclose(read(small), F.pixel_unshuffle(convolution(x), 2), atol=1e-6)
    large = map_rows(lambda y, x: F.pixel_shuffle(y, 2) + x, small, keep(x), channels=16)
    assert torch.allclose(read(large), convolution(x) + x, atol=1e-6)


@torch.no_grad()
def test_shifted_strips_wrap_around(keep):
    x = torch.rand(1, 3, 24, 5)
    weight = torch.arange(24.0).view(1, 1, 24, 1)
    seen = []

    def reverse_pairs(rows, weight):
        seen.append(rows.shape[2])
        return (rows * weight).unflatten(2, (-1, 2)).flip(3).flatten(2, 3)

    y = map_rows(reverse_pairs, keep(x), weight, channels=3, multiple=2, shift=3)
    rolled = (x * weight).roll(-3, 2).unflatten(2, (-1, 2)).flip(3).flatten(2, 3)
    assert seen == [8, 8, 8] and torch.equal(read(y), rolled.roll(3, 2))


@torch.no_grad()
def test_statistics_are_the_sums_over_the_strips(keep):
    x = torch.rand(2, 3, 21, 5)
    y, total, largest = map_rows(
        lambda x: 2 * x, keep(x), channels=3, then=lambda y: (y[:, :1], y.sum((2, 3)), torch.ones(1))
    )
    assert torch.allclose(total, 2 * x.sum((2, 3))) and largest.item() == 3
    assert torch.allclose(read(y), 2 * x[:, :1])
    assert torch.allclose(average_rows(keep(x)), x.mean((2, 3), keepdim=True))


def test_with_gradients_it_is_one_strip():
    x = torch.rand(1, 3, 50, 5, requires_grad=True)
    seen = []
    map_rows(lambda x: seen.append(x.shape[2]) or x.square(), x, channels=2**30).sum().backward()
    assert seen == [50] and torch.allclose(x.grad, 2 * x.detach())


@torch.no_grad()
def test_maps_are_whole_for_those_who_ask(monkeypatch):
    monkeypatch.setattr(strips, "VALUES_AT_ONCE", 1)
    x, seen = torch.rand(1, 3, 20, 5), []
    for expected in ([20], [8, 8, 4]):
        seen.clear()
        with whole_maps() if expected == [20] else nullcontext():
            map_rows(lambda x: seen.append(x.shape[2]) or x, x, channels=3)
        assert seen == expected


def test_memory_is_used_up_to_its_limit_and_given_back(tmp_path):
    storage = Storage(CPU, memory=3000, folder=tmp_path)
    x = torch.rand(1, 3, 10, 10)  # 1200 bytes
    maps = [storage.store(x) for _ in range(3)]
    assert [hasattr(stored, "_file") for stored in maps] == [False, False, True]
    assert all(torch.equal(read(stored), x) for stored in maps)
    del maps
    assert not hasattr(storage.store(x), "_file")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    stored = Storage(CPU, memory=0, folder=tmp_path).store(torch.rand(1, 3, 4, 4))

    class Full:
        def seek(self, place): ...
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(stored, "_file", Full())
    with pytest.raises(OutputError, match="set TMPDIR"):
        stored.write(0, torch.rand(1, 3, 4, 4))


OFFICIAL_IN_SMALL = [name for name in list_backbones() if name.endswith("_test")]


@pytest.mark.parametrize("memory", [0, EVERYTHING])
@pytest.mark.parametrize(
    "name, options", [(name, {}) for name in OFFICIAL_IN_SMALL] + [("swinir_test", {"shift_mask": True})]
)
@torch.no_grad()
def test_the_exact_mode_equals_the_whole_pass(name, options, memory, tmp_path, monkeypatch):
    torch.manual_seed(0)
    backbone = create_backbone(name, **options).eval()
    for key, parameter in backbone.named_parameters():
        if key.endswith(("beta", "gamma")):
            nn.init.normal_(parameter, std=0.5)
    x = torch.rand(1, 3, 72, 48)
    whole = backbone(x)
    monkeypatch.setattr(strips, "VALUES_AT_ONCE", 1)
    storage = Storage(CPU, memory=memory, folder=tmp_path)
    exact = apply_exact(backbone, x[..., :70, :45], multiple=backbone.size_multiple, storage=storage)
    assert exact.shape == (1, 3, 70, 45)
    exact = apply_exact(backbone, x, multiple=backbone.size_multiple, storage=storage)
    assert (exact - whole).abs().max() < 1e-5 and relative_error(exact, whole) < 1e-5
    assert (whole - x).abs().max() > 1e-3
