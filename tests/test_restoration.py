"""`restore`: any kind, any size, the same out; tiles against the whole."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import as_uint8, make_picture
from PIL import Image

import dcpt
from dcpt.backbones.base import Backbone
from dcpt.checkpoint import save_model
from dcpt.errors import InvalidImage, InvalidSetting, UnknownName


class Negative(Backbone):
    """A network whose right answer is known for every pixel."""

    feature_channels, feature_strides, size_multiple = (3,), (1,), 8

    def __init__(self):
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones(()))

    def forward(self, x, hook=False):
        self.check_input(x)
        return [x] if hook else self.one - x


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


@pytest.mark.gpu
def test_restoring_on_the_gpu_gives_the_same_picture(model_folder, picture, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    cpu, gpu = (dcpt.restore(picture, model=str(model_folder), device=device) for device in ("cpu", "cuda"))
    assert (cpu - gpu).abs().max() < 1e-3
