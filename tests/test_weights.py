"""The table of weights, what is said of them, and whether it is so."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from loopback import sha256

import dcpt
from dcpt.backbones import create_backbone
from dcpt.errors import InvalidData
from dcpt.listing import describe_weights
from dcpt.model_card import write_card
from dcpt.published import paper_tables, published_numbers
from dcpt.weights import WEIGHTS

ROOT = Path(__file__).parent.parent


def load_script(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("row", WEIGHTS.values(), ids=lambda row: row.name)
def test_every_row_is_true_of_its_network(row):
    with torch.device("meta"):
        backbone = create_backbone(row.variant, **row.options)
    assert sum(parameter.numel() for parameter in backbone.parameters()) == row.parameters
    assert row.verified == bool(row.measured) == row.bundled
    if row.published:
        assert 20 < row.paper["average"][0] < 40


def test_the_bundled_files_are_those_of_the_table():
    for row in WEIGHTS.values():
        if row.bundled:
            files = [path for path in row.folder.iterdir() if path.name in row.sha256]
            assert {path.name: sha256(path.read_bytes()) for path in files} == row.sha256
            assert {path.name for path in row.folder.glob("*.safetensors")} < set(row.sha256)


def test_the_papers_numbers_are_those_of_the_tables():
    assert published_numbers("5d", "DCPT-PromptIR")["haze"] == (30.72, 0.977)
    assert published_numbers("10d", "DCPT-NAFNet")["average"] == (29.72, 0.888)
    mixed = published_numbers("cdd11", "DCPT-NAFNet")
    assert mixed["average"][0] == pytest.approx(sum(paper_tables()["cdd11"]["psnr"]["DCPT-NAFNet"]) / 11)
    assert published_numbers("cdd11", "InstructIR")["low"] == (26.70, None)
    assert published_numbers("later_systems_5d_average", "MaskDCPT-NAFNet") == {"average": (32.09, 0.933)}
    with pytest.raises(KeyError):
        published_numbers("5d", "nobody")


def test_the_organisation_can_be_another(monkeypatch):
    assert WEIGHTS["nafnet-5d"].repository == "test-org/nafnet-5d"
    assert WEIGHTS["maskdcpt-nafnet-5d"].repository == "Jiakui/MaskDCPT"
    monkeypatch.delenv("DCPT_HUB_ORG")
    assert WEIGHTS["nafnet-5d"].repository == "dcpt-ir/nafnet-5d"


def test_list_says_what_is_here_and_what_nobody_verified(hub, tmp_path):
    done = subprocess.run([sys.executable, "-m", "dcpt", "list", "--json"], capture_output=True, text=True, check=True)
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert set(rows) == set(dcpt.list_weights()) and not hub.requests
    assert rows["nafnet-small-10d"]["verified"] and rows["nafnet-small-10d"]["cached"]
    assert rows["nafnet-small-10d"]["measured"]["mean_gain"] > 5
    assert (
        not rows["maskdcpt-swinir-5d"]["verified"] and rows["maskdcpt-swinir-5d"]["paper"]["average"]["psnr"] == 29.21
    )


def test_list_sees_the_cache(hub, tmp_path, monkeypatch, model_folder):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    hub.commit("test-org/restormer-5d", {p.name: p.read_bytes() for p in model_folder.iterdir()})
    cached = lambda: {row["name"]: row["cached"] for row in describe_weights()}["restormer-5d"]  # noqa: E731
    assert not cached()
    dcpt.from_pretrained("restormer-5d", cache_dir=tmp_path)
    assert cached()


def test_readme_and_card_are_up_to_date(monkeypatch, tmp_path):
    monkeypatch.delenv("DCPT_HUB_ORG")
    monkeypatch.setenv("DCPT_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    script = load_script(ROOT / "benchmarks" / "weights.py")
    readme = script.README.read_text(encoding="utf-8")
    assert script.render_readme(readme) == readme, "run: python benchmarks/weights.py"
    assert script.render_card() == script.CARD.read_text(encoding="utf-8"), "run: python benchmarks/weights.py"


@pytest.mark.parametrize("name", ["nafnet-small-10d", "nafnet-small-10d-pretrain"])
def test_a_model_card_says_all_there_is_to_say(name):
    row = WEIGHTS[name]
    card = write_card(row.folder, f"me/{name}")
    metadata = yaml.safe_load(card.split("---")[1])
    assert metadata["library_name"] == "dcpt" and metadata["license"] == "apache-2.0" and "haze" in metadata["tags"]
    results = metadata["model-index"][0]["results"]
    if row.has_head:
        assert results[0]["metrics"][0]["value"] == pytest.approx(row.measured["accuracy"], abs=1e-4)
    else:
        noise = row.measured["scores"][0]
        assert results[0]["dataset"]["config"] == "noise" and len(results) == len(row.measured["scores"])
        assert results[0]["metrics"][0]["value"] == pytest.approx(noise["psnr"], abs=1e-4)
        weak = [score["name"] for score in row.measured["scores"] if score["gain"] is not None and score["gain"] < 0.5]
        assert all(f"- {name.replace('_', ' ')}: " in card for name in weak)
    assert row.measured["protocol"] in card and f'from_pretrained("me/{name}"' in card
    assert "CC BY-SA 4.0" in card and "@inproceedings{hu2025" in card and "data_manifest" in card


def test_a_model_card_of_little_knowledge(model_folder, tmp_path):
    card = write_card(model_folder, "me/net")
    assert "Nothing yet." in card and "removes" not in card and "recognises noise, haze" in card
    folder = tmp_path / "model"
    create_backbone("nafnet_test").save_pretrained(folder)
    (folder / "evaluation.json").write_text('{"scores": []}')
    with pytest.raises(InvalidData, match="dcpt evaluate --json"):
        write_card(folder, "me/net")


def test_a_model_folder_can_be_read_without_this_package(tmp_path):
    from safetensors.torch import load_file

    backbone = create_backbone("nafnet_test", norm_eps=1e-5)
    backbone.save_pretrained(tmp_path, licence="Apache-2.0")
    config = json.loads((tmp_path / "config.json").read_text())
    assert config == {"variant": "nafnet_test", "overrides": {"norm_eps": 1e-5}, "licence": "Apache-2.0"}
    state = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(state[name], value) for name, value in backbone.state_dict().items())
