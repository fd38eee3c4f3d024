"""`restore`: any kind, any size, the same out; tiles against the whole."""

import io
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import as_uint8, make_picture
from folder_victim import Negative
from PIL import Image

import dcpt
from dcpt.checkpoint import save_model
from dcpt.diagnosis import Diagnosis
from dcpt.errors import CheckpointMismatch, DcptError, InvalidImage, InvalidSetting, OutOfMemory, UnknownName


@pytest.fixture
def restorer():
    return dcpt.Restorer(Negative(), device="cpu", tile_size=64, overlap=16)


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (64, 64), (129, 65)])
def test_every_size_is_restored_whole_or_in_tiles(restorer, size):
    array = as_uint8(make_picture(*size))
    assert np.array_equal(restorer.restore(array), 255 - array)


def test_every_kind_comes_back_as_its_kind(restorer, tmp_path):
    array = as_uint8(make_picture(20, 30))
    image = Image.fromarray(array)
    image.save(tmp_path / "in.png")
    expected = 255 - array
    assert np.array_equal(np.asarray(restorer.restore(image)), expected)
    assert np.array_equal(np.asarray(restorer.restore(tmp_path / "in.png")), expected)
    assert np.array_equal(np.asarray(restorer.restore(str(tmp_path / "in.png"))), expected)
    restored = restorer.restore((tmp_path / "in.png").read_bytes())
    assert isinstance(restored, bytes)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(restored))), expected)
    batch = torch.rand(2, 3, 20, 30)
    assert torch.allclose(restorer.restore(batch), 1 - batch)


def test_transparency_passes_by_the_network(restorer):
    array = np.random.default_rng(0).integers(0, 256, (20, 30, 4), np.uint8)
    restored = restorer.restore(array)
    assert np.array_equal(restored[..., 3], array[..., 3])
    assert np.array_equal(restored[..., :3], 255 - array[..., :3])


def test_tiles_of_a_real_network_meet_without_a_seam(model_folder):
    picture = make_picture(200, 220).unsqueeze(0)
    backbone = dcpt.from_pretrained(model_folder)
    whole = dcpt.Restorer(backbone, device="cpu").restore_batch(picture)
    tiled = dcpt.Restorer(backbone, device="cpu", tile_size=128, overlap=32).restore_batch(picture)
    step = (tiled[..., 1:] - tiled[..., :-1]).abs().mean((0, 1, 2))
    natural = (whole[..., 1:] - whole[..., :-1]).abs().mean((0, 1, 2))
    assert (step - natural).abs().max() < 0.5 * natural.mean()


def test_the_same_input_gives_the_same_output(model_folder, picture):
    first, second = (dcpt.restore(picture, model=str(model_folder), device="cpu") for _ in range(2))
    assert torch.equal(first, second) and first.shape == picture.shape
    assert first.min() >= 0 and first.max() <= 1


def test_mistakes_are_named(picture):
    with pytest.raises(UnknownName, match="unknown weights 'nafnet'"):
        dcpt.restore(picture, model="nafnet")
    with pytest.raises(InvalidSetting, match="cannot use device 'gpu'"):
        dcpt.Restorer(Negative(), device="gpu")
    with pytest.raises(InvalidImage, match="found no file"):
        dcpt.restore(Path("missing.png"))
    with pytest.raises(InvalidSetting, match="at least 79 pixels, got an overlap of 64 and a tile of -5"):
        dcpt.Restorer(Negative(), tile_size=-5)


def test_a_model_folder_is_read_anew(model_folder, picture, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    before = dcpt.restore(picture, model=str(folder), device="cpu")
    backbone = dcpt.from_pretrained(folder)
    torch.nn.init.zeros_(backbone.ending.weight)
    save_model(folder, backbone)
    assert not torch.equal(before, dcpt.restore(picture, model=str(folder), device="cpu"))


class Greedy(Negative):
    """A network that has memory for tiles of up to so many pixels."""

    def __init__(self, most, error):
        super().__init__()
        self.most, self.error, self.seen = most, error, []

    def forward(self, x, hook=False):
        self.seen.append(x.shape[-1])
        if max(x.shape[-2:]) > self.most:
            raise self.error
        return x.roll(1, 3)  # what a tile gives depends on where it begins


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    ],
)
@pytest.mark.parametrize("most", [600, 512, 300, 256, 150, 128, 80, 64])
def test_out_of_memory_halves_the_tiles(most, error):
    picture = torch.rand(1, 3, 700, 520)
    greedy = Greedy(most, error)
    restored = dcpt.Restorer(greedy, device="cpu", tile_size=512, overlap=16).restore_batch(picture)
    fitting = next(size for size in (512, 256, 128, 64) if size <= most)
    assert greedy.seen[-1] == fitting
    asked = dcpt.Restorer(Greedy(most, error), device="cpu", tile_size=fitting, overlap=16).restore_batch(picture)
    assert torch.equal(restored, asked)


def test_too_little_memory_for_any_tile_is_one_line():
    restorer = dcpt.Restorer(Greedy(30, MemoryError()), device="cpu", overlap=16)
    with pytest.raises(OutOfMemory, match="not even tiles of 43 pixels fit into the memory of cpu"):
        restorer.restore_batch(torch.rand(1, 3, 700, 520))


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    with pytest.raises(RuntimeError, match="a bug"):
        dcpt.Restorer(Greedy(30, RuntimeError("a bug")), device="cpu").restore_batch(torch.rand(1, 3, 64, 64))


def test_tiles_are_chosen_by_the_free_memory(monkeypatch):
    backbone = Greedy(10**6, MemoryError())
    picture = torch.rand(1, 3, 600, 600)
    for free, side in ((10**9, 600), (2 * 96 * 512**2, 512), (2 * 96 * 200**2, 192), (0, 128)):
        monkeypatch.setattr("dcpt.restoration.free_memory", lambda device, free=free: free)
        backbone.seen.clear()
        dcpt.Restorer(backbone, device="cpu").restore_batch(picture)
        assert backbone.seen[0] == side, free


def test_the_tile_chosen_has_room_for_the_overlap(monkeypatch):
    monkeypatch.setattr("dcpt.restoration.free_memory", lambda device: 0)
    picture = torch.rand(1, 3, 300, 300)
    assert torch.allclose(dcpt.Restorer(Negative(), device="cpu", overlap=150).restore_batch(picture), 1 - picture)
    with pytest.raises(InvalidSetting, match="a tile of 0"):
        dcpt.Restorer(Negative(), device="cpu", tile_size=0)


def test_a_batch_changes_no_picture_in_it(model_folder, monkeypatch):
    monkeypatch.setattr("dcpt.restoration.free_memory", lambda device: 10**7)
    restorer = dcpt.Restorer(model_folder, device="cpu")
    batch = torch.rand(4, 3, 150, 140)
    assert torch.equal(restorer.restore_batch(batch)[2:3], restorer.restore_batch(batch[2:3]))


def test_threads_share_the_memory_there_is(monkeypatch):
    monkeypatch.setattr("dcpt.restoration.free_memory", lambda device: 1000)
    restorer = dcpt.Restorer(Negative(), device="cpu")
    planned, meeting = [], threading.Barrier(4)

    def note(lq):
        meeting.wait(10)
        planned.append(restorer._plan_memory(restorer.device))
        meeting.wait(10)
        return lq

    monkeypatch.setattr(restorer, "_apply_tiled", note)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(restorer.restore_batch, [torch.rand(1, 3, 8, 8)] * 4))
    assert planned == [125.0] * 4
    assert restorer._plan_memory(restorer.device) == 500


def test_the_exact_mode_goes_to_the_disk_when_memory_runs_out(model_folder, picture, monkeypatch):
    budgets, apply = [], dcpt.restoration.apply_exact

    def starve(*arguments, storage, **settings):
        budgets.append(storage._memory)
        if storage._memory:
            raise MemoryError
        return apply(*arguments, storage=storage, **settings)

    monkeypatch.setattr("dcpt.restoration.apply_exact", starve)
    exact = dcpt.restore(picture, model=model_folder, device="cpu", exact=True)
    assert budgets[0] > 0 and budgets[1:] == [0]
    assert torch.equal(exact, dcpt.restore(picture, model=model_folder, device="cpu", exact=True))


def test_local_pooling_has_no_exact_mode():
    backbone = dcpt.create_backbone("nafnet_test", pooling="local")
    with pytest.raises(InvalidSetting, match="exact mode, got NAFNet"):
        dcpt.Restorer(backbone, device="cpu", exact=True)


def test_restored_tensors_can_be_viewed(model_folder, picture):
    assert dcpt.restore(picture, model=model_folder, device="cpu").is_contiguous()


def test_nothing_to_remove_leaves_the_picture_untouched(monkeypatch):
    found = Diagnosis({"haze": 0.9, "rain": 0.1}, 0.0, clean=False, unknown=False, calibrated=True, map=())
    monkeypatch.setattr("dcpt.restoration.diagnose_picture", lambda lq, device: found)
    picture = torch.rand(1, 3, 20, 30)
    restoration = dcpt.Restorer(Negative(), device="cpu", only=["rain"]).process(picture)
    assert restoration.untouched and torch.equal(restoration.pixels, picture)
    assert not dcpt.Restorer(Negative(), device="cpu", only=["haze"]).process(picture).untouched


class Overflowing(Negative):
    """A network whose half precision overflows."""

    def forward(self, x, hook=False):
        return self.one - x + (torch.inf if torch.is_autocast_enabled("cpu") else 0)


def test_what_half_precision_cannot_hold_is_computed_in_full():
    picture = torch.rand(1, 3, 20, 30)
    restorer = dcpt.Restorer(Overflowing(), device="cpu", precision="bfloat16")
    assert torch.allclose(restorer.restore_batch(picture), 1 - picture)


def test_half_precision_comes_near(model_folder, picture):
    full, half = (dcpt.restore(picture, model=model_folder, device="cpu", precision=p) for p in ("float32", "bfloat16"))
    assert 0 < (full - half).abs().max() < 0.05


@pytest.mark.parametrize("exact", [False, True])
def test_nan_is_never_given_out(model_folder, picture, exact):
    backbone = dcpt.from_pretrained(model_folder)
    torch.nn.init.constant_(backbone.ending.bias, torch.nan)
    with pytest.raises(CheckpointMismatch, match="NaN"):
        dcpt.Restorer(backbone, device="cpu", exact=exact).restore_batch(picture[None])


def test_exact_is_the_whole_picture(model_folder, picture):
    whole, exact = (dcpt.restore(picture, model=model_folder, device="cpu", exact=exact) for exact in (False, True))
    assert (whole - exact).abs().max() < 1e-5
    with pytest.raises(InvalidSetting, match="got Negative; use tiles"):
        dcpt.Restorer(Negative(), exact=True)


def test_lists_and_batches_of_arrays(restorer):
    arrays = [as_uint8(make_picture(20, 30)), as_uint8(make_picture(9, 8))]
    assert all(np.array_equal(a, 255 - b) for a, b in zip(restorer.restore(arrays), arrays))
    batch = np.stack([arrays[0]] * 2)
    assert np.array_equal(restorer.restore(batch), 255 - batch)


def test_threads_share_a_restorer(model_folder):
    pictures = [make_picture(70 + 8 * i, 90).unsqueeze(0) for i in range(6)]
    with dcpt.Restorer(model_folder, device="cpu", tile_size=64, overlap=16) as restorer:
        alone = [restorer.restore_batch(picture) for picture in pictures]
        with ThreadPoolExecutor(3) as pool:
            together = list(pool.map(restorer.restore_batch, pictures))
    assert all(torch.equal(a, b) for a, b in zip(alone, together))
    with pytest.raises(InvalidSetting, match="closed"):
        restorer.restore_batch(pictures[0])


def test_a_clean_picture_is_left_alone_if_wanted(restorer, monkeypatch):
    looks = {"clean": True}
    monkeypatch.setattr("dcpt.restoration.diagnose_picture", lambda lq, device: SimpleNamespace(**looks))
    picture = torch.rand(2, 3, 20, 30)
    protecting = dcpt.Restorer(Negative(), device="cpu", protect_clean=True)
    assert torch.equal(protecting.restore(picture), picture) and protecting.process(picture[:1]).untouched
    assert not torch.equal(restorer.restore(picture), picture)
    looks["clean"] = False
    assert torch.allclose(protecting.restore(picture), 1 - picture)


def test_strength_and_choice_reach_the_picture(picture, model_folder):
    full, none, half = (
        dcpt.restore(picture, model=model_folder, device="cpu", strength=strength) for strength in (1.0, 0.0, 0.5)
    )
    assert torch.equal(none, picture) and 0 < (half - picture).abs().mean() < (full - picture).abs().mean()
    for settings, message in (
        ({"strength": 2}, "from 0 to 1"),
        ({"only": ["fog"]}, "fog"),
        ({"only": ["haze"], "keep": ["haze"]}, "haze"),
        ({"precision": "int8"}, "int8"),
        ({"precision": "bfloat16", "exact": True}, "bfloat16"),
    ):
        with pytest.raises(DcptError, match=message):
            dcpt.restore(picture, model=model_folder, device="cpu", **settings)


@pytest.mark.gpu
def test_restoring_on_the_gpu_gives_the_same_picture(model_folder, picture, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    cpu, gpu = (dcpt.restore(picture, model=str(model_folder), device=device) for device in ("cpu", "cuda"))
    assert (cpu - gpu).abs().max() < 1e-3
