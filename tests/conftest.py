"""What several tests need: a photograph-like picture, tiny networks and their folders."""

import multiprocessing.forkserver
import os
import sys
import tempfile
from pathlib import Path

import pytest
from loopback import LoopbackHub

# No test meets the real Hub or the user's own cache; the client reads these when it is imported.
HUB, HOME = LoopbackHub(), tempfile.TemporaryDirectory()
os.environ |= {"HF_ENDPOINT": HUB.endpoint, "HF_HOME": f"{HOME.name}/hf", "DCPT_HOME": f"{HOME.name}/dcpt"}
os.environ |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "1"}
os.environ |= {"HF_TOKEN": "hf_test", "DCPT_HUB_ORG": "test-org", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

import numpy as np
import torch
from PIL import Image

from dcpt.backbones import create_backbone
from dcpt.checkpoint import save_model
from dcpt.data.crops import pack_crops
from dcpt.heads import DegradationClassifier

GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))  # fill.py, the recipe of the reference weights


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests that take minutes, too")


def pytest_collection_modifyitems(config, items):
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
        if item.get_closest_marker("slow") and not config.getoption("slow"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: pytest --slow"))


@pytest.fixture(scope="session")
def fork_server():
    """Starts processes that have loaded the package already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["loopback", "victim"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        multiprocessing.forkserver.ensure_running()
    return context


@pytest.fixture
def hub():
    """The Hub of these tests, well again and with its log empty."""
    HUB.behave()
    HUB.requests.clear()
    return HUB


def make_picture(height=96, width=128, seed=0):
    """A smooth colourful picture with edges and texture, (3, H, W) in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 5, 6, generator=generator)
    picture = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)[0]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    picture = picture + 0.25 * ((x // 16 + y // 12) % 2) - 0.1
    return (picture + 0.03 * torch.randn(picture.shape, generator=generator)).clamp(0, 1)


def as_uint8(picture):
    return (picture * 255).round().byte().permute(1, 2, 0).numpy()


@pytest.fixture
def picture():
    return make_picture()


@pytest.fixture
def photo_folder(tmp_path):
    """Four clean pictures, large enough for training crops of 64 pixels."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(4):
        Image.fromarray(as_uint8(make_picture(160, 192, seed))).save(folder / f"{seed}.png")
    return folder


@pytest.fixture
def packed(photo_folder, tmp_path):
    """The same pictures, packed."""
    path = tmp_path / "crops.safetensors"
    pack_crops([photo_folder], crop_size=64).save(path)
    return path


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A saved tiny backbone with a head of three classes; its weights are random but not idle."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    backbone = create_backbone("nafnet_test")
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    labels = ("noise", "haze", "clean")
    save_model(folder, backbone, DegradationClassifier(backbone.feature_channels, 3, labels=labels))
    return folder


def relative_error(got, expected):
    expected = torch.as_tensor(np.asarray(expected))
    return ((got - expected).norm() / expected.norm()).item()
