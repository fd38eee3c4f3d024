"""What a run folder tells of its run."""

import json
import sys

import pytest
from click.testing import CliRunner
from PIL import Image

from dcpt.cli import main
from dcpt.errors import InvalidData, MissingExtra
from dcpt.runs import plot_curves, read_log, summarise_run


@pytest.fixture
def run(tmp_path):
    settings = {"steps": 100, "mode": "standard"}
    origin = {"stage": "finetune", "recipe": {"backbone": "nafnet_test", "finetune": settings}}
    (tmp_path / "recipe.json").write_text(json.dumps(origin))
    rows = [{"step": step, "loss": 1 / step, "seconds_per_step": 3.0} for step in (20, 40)]
    lines = [*map(json.dumps, rows), '{"step": 60, "lo']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/00000040.pt").touch()
    return tmp_path


def test_a_run_tells_how_far_it_has_come(run):
    assert [row["step"] for row in read_log(run)] == [20, 40]
    facts = summarise_run(run)
    assert (facts["step"], facts["steps"], facts["minutes_left"], facts["loss"]) == (40, 100, 3.0, 1 / 40)
    done = CliRunner().invoke(main, ["runs", "show", str(run), "--json", "--plot", str(run / "curves.png")])
    assert done.exit_code == 0 and json.loads(done.output)["checkpoints"] == ["00000040.pt"]
    with Image.open(run / "curves.png") as picture:
        assert picture.format == "PNG" and len(picture.getcolors(10**6)) > 10


def test_what_is_no_run_and_what_is_not_installed_is_named(run, tmp_path, monkeypatch):
    with pytest.raises(InvalidData, match="expected the folder of a training run"):
        summarise_run(tmp_path / "nothing")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r"pip install 'dcpt\[plot\]'"):
        plot_curves(run, run / "curves.png")
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(InvalidData, match="wait for the first steps"):
        plot_curves(run, run / "curves.png")
    assert summarise_run(run)["minutes_left"] is None
