"""The examples run as they are printed."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import as_uint8, make_picture
from PIL import Image

from dcpt.backbones.base import BACKBONES
from dcpt.degradations.base import DEGRADATIONS

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def run(monkeypatch):
    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        return runpy.run_path(str(EXAMPLES / name), run_name="__main__")

    return run


def test_a_backbone_of_ones_own_is_registered_pretrained_and_shown(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(BACKBONES, "_entries", dict(BACKBONES._entries))
    run("add_a_backbone.py", "-o", tmp_path / "features.png", "--steps", 2)
    assert "two_levels" in BACKBONES
    assert Image.open(tmp_path / "features.png").size == (6 * 128, 2 * 128)


def test_a_degradation_of_ones_own_is_learnt_and_mended(run, tmp_path, monkeypatch):
    monkeypatch.setattr(DEGRADATIONS, "_entries", dict(DEGRADATIONS._entries))
    run("own_degradation.py", "-o", tmp_path / "faded.png", "--steps", 2)
    width, height = Image.open(EXAMPLES / "images/noise.png").size
    assert Image.open(tmp_path / "faded.png").size == (2 * width, height)


@pytest.mark.slow
def test_the_whole_way_from_photographs_to_restored_pictures(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for seed in range(6):
        Image.fromarray(as_uint8(make_picture(300, 300, seed))).save(photos / f"{seed}.png")
    subprocess.run(["sh", EXAMPLES / "from_scratch.sh", photos, tmp_path / "scratch"], check=True, timeout=1800)
    rows = {}
    for stage in ("pretrain", "finetune"):
        lines = (tmp_path / "scratch" / stage / "metrics.jsonl").read_text().splitlines()
        rows[stage] = [json.loads(line) for line in lines if "val_" in line]
    assert max(row["val_accuracy"] for row in rows["pretrain"]) > 0.7
    assert rows["finetune"][-1]["val_psnr"] > rows["finetune"][-1]["val_input_psnr"]
    assert Image.open(tmp_path / "scratch/restored.png").size == (300, 300)


def test_the_pretraining_example_runs(run, capsys):
    run("pretraining_step.py")
    assert "step 19" in capsys.readouterr().out


def test_fifty_pairs_teach_the_bundled_weights_a_new_damage(run, capsys):
    run("few_shot.py")
    before, after = map(
        float, re.search(r"pictures: ([\d.]+) .* before, ([\d.]+) after", capsys.readouterr().out).groups()
    )
    assert after < 0.6 * before
