"""Training killed without warning, at any moment: it goes on as if nothing had happened."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
import victim
from test_training import assert_equal, final_state

from dcpt.run_folder import RunFolder

SETTINGS = {"steps": 60, "batch_size": 2, "patch_size": 16, "lr": 1e-3, "checkpoint_every": 10, "log_every": 10}
SETTINGS |= {"validation_size": 4}
RECIPE = """
name: test
backbone: nafnet_test
labels: [noise, haze]
head_norm: batch
"""


@pytest.fixture(autouse=True)
def recipe(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path / "recipe.yaml"


def command(packed, mode, folder, **settings):
    options = [f"--set={key}={value}" for key, value in (SETTINGS | settings).items()]
    return [mode, packed, "-o", folder, "--recipe", packed.parent / "recipe.yaml", "--device", "cpu", *options]


@pytest.fixture
def run(fork_server, tmp_path):
    """Train in a process of its own; return its exit code and what it said."""

    def start(arguments, **kills):
        errors = tmp_path / "errors.txt"
        process = fork_server.Process(target=victim.train, args=(arguments, errors), kwargs=kills)
        process.start()
        process.join(120)
        return process.exitcode, errors.read_text()

    return start


@pytest.mark.parametrize("mode", ["pretrain", "finetune"])
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_five_times_a_run_ends_bit_for_bit_as_one_never_killed(mode, workers, packed, tmp_path, run):
    straight = command(packed, mode, tmp_path / "straight", workers=workers)
    killed = command(packed, mode, tmp_path / "killed", workers=workers)
    assert run(straight)[0] == 0
    for step in (1, 17, 29, 30, 59):
        assert run(killed, kill_step=step)[0] == -signal.SIGKILL
    code, errors = run(killed)
    assert code == 0, errors
    assert_equal(final_state(tmp_path / "straight"), final_state(tmp_path / "killed"))
    for file in ("metrics.jsonl", "model/model.safetensors"):
        a, b = ((tmp_path / name / file).read_bytes() for name in ("straight", "killed"))
        if file.endswith(".jsonl"):  # whose seconds differ
            a, b = (text.count(b"\n") for text in (a, b))
        assert a == b


def test_fifty_kills_while_a_checkpoint_is_written_lose_nothing_that_was_whole(fork_server, tmp_path):
    moment = random.Random(0)
    for _ in range(50):
        ours, theirs = fork_server.Pipe(duplex=False)
        process = fork_server.Process(target=victim.write_for_ever, args=(tmp_path, theirs))
        process.start()
        theirs.close()
        begun = ours.recv()
        time.sleep(moment.uniform(0, 0.3))
        process.kill()
        process.join()
        while ours.poll():
            try:
                begun = ours.recv()
            except EOFError:
                break
        folder = RunFolder(tmp_path)
        for path in folder.checkpoints.glob("[0-9]*.pt"):  # every file under its final name loads
            data = torch.load(path, weights_only=True)
            assert torch.equal(data["weights"], torch.full((500_000,), float(data["step"])))
        saved = folder.load_checkpoint()
        assert (saved["step"] if saved else 0) >= begun - 1
    with folder.locked():
        assert not list(folder.checkpoints.glob(".*"))


def test_a_signal_to_the_whole_group_saves_first(packed, tmp_path):
    arguments = command(packed, "finetune", tmp_path / "run", workers=2, steps=5000, log_every=1)
    process = subprocess.Popen(
        [sys.executable, "-m", "dcpt", *map(str, arguments)], start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    log = tmp_path / "run/metrics.jsonl"
    while not (log.exists() and log.read_text()):
        assert process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGTERM)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and "stopped by SIGTERM" in errors and "data worker died" not in errors
    assert final_state(tmp_path / "run")["step"] >= 1


def test_a_full_disk_stops_the_run_and_leaves_a_good_checkpoint(packed, tmp_path, run):
    arguments = command(packed, "finetune", tmp_path / "run")
    assert run(arguments, kill_step=25)[0] == -signal.SIGKILL
    code, errors = run(arguments, largest_file=20_000)
    assert code == 1 and "cannot write" in errors and "Traceback" not in errors
    assert final_state(tmp_path / "run")["step"] == 20
    assert run(arguments)[0] == 0 and final_state(tmp_path / "run")["step"] == 60


def test_a_data_worker_that_dies_is_named_and_the_run_goes_on_when_repeated(packed, tmp_path, run):
    arguments = command(packed, "finetune", tmp_path / "run", workers=2)
    code, errors = run(arguments, kill_worker_step=25)
    # The dying worker's own threads may say something, too; ours is one line and no traceback of this package.
    assert code == 1 and errors.count("a data worker died") == 1 and "dcpt/cli" not in errors
    assert final_state(tmp_path / "run")["step"] >= 10
    assert run(arguments)[0] == 0
