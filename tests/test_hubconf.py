"""The entry points for torch.hub, used as a stranger would: from a copy of the repository."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import dcpt
from dcpt.conversion import export_checkpoint
from dcpt.errors import CheckpointMismatch

REPOSITORY = str(Path(__file__).parent.parent)
PYPROJECT = (Path(REPOSITORY) / "pyproject.toml").read_text()


@pytest.fixture
def downloaded(monkeypatch):
    """As if torch.hub, which lists and explains only what is on GitHub, had just fetched this repository."""
    monkeypatch.setattr(torch.hub, "_get_cache_or_reload", lambda *_, **__: REPOSITORY)


def test_hub_lists_every_backbone_and_restore(downloaded):
    entries = torch.hub.list("dcpt-ir/dcpt")
    assert {"dcpt_nafnet", "dcpt_nafnet_small", "dcpt_promptir", "dcpt_restormer", "dcpt_swinir"} < set(entries)
    expected = {f"dcpt_{name}" for name in dcpt.list_backbones() if not name.endswith("_test")}
    assert set(entries) == expected | {"dcpt_restore"}


def test_hub_help_tells_the_network_and_its_arguments(downloaded):
    text = torch.hub.help("dcpt-ir/dcpt", "dcpt_promptir")
    assert "35.4 M parameter PromptIR" in text and "pretrained:" in text


def test_hub_load_creates_and_loads(tmp_path):
    fresh = torch.hub.load(REPOSITORY, "dcpt_promptir_small", source="local", pretrained=False, dim=12)
    assert type(fresh).__name__ == "PromptIR" and fresh.feature_channels == (24, 48, 48)
    bundled = torch.hub.load(REPOSITORY, "dcpt_nafnet_small", source="local", pretrained="nafnet-small-10d")
    export_checkpoint(bundled, tmp_path / "nafnet.pth")
    again = torch.hub.load(REPOSITORY, "dcpt_nafnet", source="local", pretrained=str(tmp_path / "nafnet.pth"))
    x = torch.rand(1, 3, 16, 16)
    assert torch.equal(bundled(x), again(x)) and not again.training


def test_hub_needs_no_more_than_the_core_dependencies():
    declared = re.findall(r'^  "([\w-]+)[>=]', re.search(r"\ndependencies = \[.*?\]", PYPROJECT, re.S)[0], re.M)
    modules = {{"pillow": "PIL", "pyyaml": "yaml"}.get(name, name) for name in declared}
    code = (
        "import sys, importlib.abc\n"
        "class Block(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('pytest', 'skimage', 'matplotlib', 'accelerate', 'sklearn'):\n"
        "            raise ImportError('not a core dependency: ' + name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "import torch\n"
        f"torch.hub.load({REPOSITORY!r}, 'dcpt_promptir_small', source='local', pretrained=False)\n"
        "import hubconf\n"
        "print(' '.join(hubconf.dependencies))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert set(result.stdout.split()) == modules


def test_weights_of_another_network_are_refused(tmp_path):
    for entry in ("swinir", "nafnet"):
        with pytest.raises(CheckpointMismatch, match=f"weights of {entry}, got nafnet_small in nafnet-small-10d"):
            torch.hub.load(REPOSITORY, f"dcpt_{entry}", source="local", pretrained="nafnet-small-10d")
    with pytest.raises(CheckpointMismatch, match="False, a name or a path, got True"):
        torch.hub.load(REPOSITORY, "dcpt_nafnet", source="local", pretrained=True)
