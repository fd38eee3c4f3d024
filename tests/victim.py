"""Processes to be killed; kept apart from the tests so that a fork server can start them at once."""

import multiprocessing
import os
import resource
import signal
import sys

import torch

import dcpt.finetuning
import dcpt.pretraining  # noqa: F401  (loaded before the fork, as is everything that training needs)
from dcpt.cli import main
from dcpt.data.batches import Batches
from dcpt.run_folder import RunFolder
from dcpt.training import TrainingState


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def train(arguments, errors, kill_step=None, kill_worker_step=None, largest_file=None):
    """Run a training command; kill this process before an update, or the worker that prepares a step.

    Args:
        largest_file: Bytes after which writing a file fails, as on a full disk.
    """
    if largest_file is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # so that the data workers are patched, too
    sys.stderr = open(errors, "w")  # noqa: SIM115
    update, make_batch = TrainingState.update, Batches.__call__
    TrainingState.update = lambda state, processes: die() if state.step == kill_step else update(state, processes)
    Batches.__call__ = lambda self, step: die() if step == kill_worker_step else make_batch(self, step)
    main([str(argument) for argument in arguments])


def write_for_ever(path, pipe):
    """Write one checkpoint after the other, saying which is begun."""
    folder = RunFolder(path)
    with folder.locked():
        saved = folder.load_checkpoint()
        step = saved["step"] if saved else 0
        while True:
            step += 1
            pipe.send(step)
            folder.save_checkpoint(step, {"step": step, "weights": torch.full((500_000,), float(step))})
