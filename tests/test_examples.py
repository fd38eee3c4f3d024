"""The examples run as they are printed."""

import re
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

from dcpt.backbones.base import BACKBONES

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
    assert "two_levels" in BACKBONES and "step  1" in capsys.readouterr().out
    assert Image.open(tmp_path / "features.png").size == (6 * 128, 2 * 128)


def test_the_pretraining_example_runs(run, capsys):
    run("pretraining_step.py")
    assert "step 19" in capsys.readouterr().out


def test_fifty_pairs_teach_the_bundled_weights_a_new_damage(run, capsys):
    run("few_shot.py")
    before, after = map(
        float, re.search(r"pictures: ([\d.]+) .* before, ([\d.]+) after", capsys.readouterr().out).groups()
    )
    assert after < 0.6 * before
