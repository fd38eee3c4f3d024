"""The log of a run: a line of averages every few steps, for people, programs and TensorBoard."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dcpt.errors import DcptError, MissingExtra
from dcpt.processes import Processes
from dcpt.run_folder import RunFolder

PATIENCE = 5  # steps in a row without a finite gradient: no accident any more


class StepLog:
    """Averages the metrics of some steps over them and all processes, and writes them down.

    Args:
        folder: Gets the lines.
        processes: Those that train.
        events: First step to write for TensorBoard, too; False writes nothing for it.
    """

    def __init__(self, folder: RunFolder, processes: Processes, *, events: int | bool = False) -> None:
        self.folder, self.processes = folder, processes
        self.events = open_events(folder.path, events) if events and processes.is_main else None
        self.named: set[str] = set()
        self.in_a_row = 0
        self._begin()

    def _begin(self) -> None:
        self.window: list[dict[str, Tensor]] = []
        self.unusable: dict[str, str] = {}
        self.skipped = 0
        self.started = time.perf_counter()

    def add(self, step: int, metrics: dict[str, Tensor], unusable: Mapping[str, str], *, finite: bool) -> None:
        """Take note of a step and of files that could not be used.

        A step without a finite gradient, which moved nothing, is only counted.

        Raises:
            DcptError: If many steps in a row had none.
        """
        self.unusable |= unusable
        if finite:
            self.window.append(metrics)
            self.in_a_row = 0
            return
        self.skipped += 1
        self.in_a_row += 1
        if self.in_a_row == PATIENCE:
            raise diverged(step)

    def write_average(self, step: int) -> dict[str, str]:
        """Write the averages of the steps since the last time; return them as text.

        Warns:
            UserWarning: For every file that could not be used, once in a run.
        """
        self.warn(self.unusable)
        row: dict[str, float] = {}
        if self.window:
            means = torch.stack([torch.stack(list(row.values())).float() for row in self.window]).mean(0)
            self.processes.average([means])
            row = dict(zip(self.window[0], means.tolist(), strict=True))
        seconds = (time.perf_counter() - self.started) / (len(self.window) + self.skipped)
        line = {"step": step, **row, "seconds_per_step": seconds}
        if self.processes.is_main:
            self.write(line | ({"skipped": self.skipped} if self.skipped else {}))
        self._begin()
        return {name: f"{value:.4f}" for name, value in row.items()}

    def warn(self, unusable: Mapping[str, str]) -> None:
        """Name the files that could not be used in any process, once in a run."""
        for file, reason in self.processes.gather(list(unusable.items())):
            if file not in self.named and self.processes.is_main:
                warnings.warn(f"skipped: {reason}", stacklevel=2)
            self.named.add(file)

    def write(self, row: Mapping[str, float]) -> None:
        """Write one line."""
        self.folder.append_log(row)
        if self.events:
            for name, value in row.items():
                self.events.add_scalar(name, value, row["step"])
            self.events.flush()


def open_events(folder: Path, step: int) -> Any:
    """Return a writer for TensorBoard that drops what it wrote of this step and later ones.

    Raises:
        MissingExtra: If tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtra(
            "tensorboard=true needs tensorboard; install it with: pip install 'dcpt[tensorboard]'"
        ) from None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step)


def diverged(step: int) -> DcptError:
    """Return the error for a loss or weight that is not finite."""
    return DcptError(
        f"loss or weights are no longer finite at step {step}; repeat the command to go on from the "
        "last checkpoint, with a lower lr or with precision=fp32"
    )
