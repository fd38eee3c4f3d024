"""Several processes train as one does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dcpt.errors import InvalidSetting
from dcpt.hub import from_pretrained
from dcpt.pretraining import pretrain
from dcpt.processes import Processes, join_processes

STEPS = 20
SETTINGS = {"steps": STEPS, "batch_size": 4, "patch_size": 16, "lr": 1e-3, "log_every": 1, "validation_size": 4}
RECIPE = """
name: test
backbone: nafnet_test
labels: [noise, haze, clean]
pretrain: {clean_share: 0.2}
finetune: {mode: guided, clean_share: 0.2}
"""


@pytest.fixture(autouse=True)
def recipe(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path / "recipe.yaml"


def launch(*arguments):
    """Start two processes on this machine; return what they said."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def curves(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds_per_step"} for row in rows]


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_two_processes_train_as_one_with_the_same_batches(stage, recipe, packed, tmp_path):
    start = [f"--from={pretrain(None, packed, tmp_path / 'start', recipe=recipe, device='cpu', **SETTINGS)}"]
    arguments = [stage, packed, "--recipe", recipe, "--device", "cpu", *(start if stage == "finetune" else [])]
    arguments += [f"--set={key}={value}" for key, value in SETTINGS.items()]
    said = launch("-m", "dcpt", *arguments, "-o", tmp_path / "two")
    assert said.strip() == str(tmp_path / "two/model")
    subprocess.run([sys.executable, "-m", "dcpt", *map(str, arguments), "-o", tmp_path / "one"], check=True)
    one, two = curves(tmp_path / "one"), curves(tmp_path / "two")
    assert len(one) == STEPS + 1  # and a validation
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, abs=1e-4)
    assert from_pretrained(tmp_path / "two/model") is not None


def test_the_step_runs_under_distributed_data_parallel():
    launch(Path(__file__).parent / "ddp_step.py")


def test_processes_share_a_batch_evenly_or_say_that_they_cannot():
    processes = Processes(torch.device("cpu"))
    assert list(processes.share(3)) == [0, 1, 2]
    processes.rank, processes.count = 1, 2
    assert list(processes.share(6)) == [1, 3, 5]
    with pytest.raises(InvalidSetting, match="batch_size that 2 processes can share, got 5"):
        processes.share(5)


def test_a_process_alone_needs_nothing_of_accelerate(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert join_processes("cpu").count == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ImportError, match=r"dcpt\[train\]"):
        join_processes("cpu")
