"""The entry points for torch.hub, used as a stranger would: from a copy of the repository."""

from pathlib import Path

import pytest
import torch

import dcpt
from dcpt.conversion import export_checkpoint
from dcpt.errors import CheckpointMismatch

REPOSITORY = str(Path(__file__).parent.parent)


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


def test_weights_of_another_network_are_refused(tmp_path):
    with pytest.raises(CheckpointMismatch, match="expected weights of SwinIR, got NAFNet in nafnet-small-10d"):
        torch.hub.load(REPOSITORY, "dcpt_swinir", source="local", pretrained="nafnet-small-10d")
