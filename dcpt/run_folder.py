"""The folder of a training run: one process at a time, checkpoints that survive anything, and the log."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from dcpt.checkpoint import write_pickled
from dcpt.errors import CheckpointMismatch, DcptError, OutputError
from dcpt.files import atomic_path, locked, read_json, write_json

LOG_FILE = "metrics.jsonl"
BEST_FILE = "best.json"


class RunFolder:
    """A run folder on disk.

    Every checkpoint has a manifest with its sha256, written after it: one without a manifest, or
    that does not match its own, does not count.

    Args:
        path: The folder; made when it is first written to.
        keep: How many checkpoints to keep, newest first; that of the best validation stays, too.
    """

    def __init__(self, path: Path, *, keep: int = 2) -> None:
        self.path = path
        self.keep = keep
        self.checkpoints = path / "checkpoints"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out, until the end of the block or of this process, however it ends.

        Raises:
            DcptError: If another process is in there.
            OutputError: If the folder cannot be written to.
        """
        busy = f"another process trains in {self.path}; wait for it, or choose another folder"
        with locked(self.path / ".lock", busy=busy):
            self.checkpoints.mkdir(exist_ok=True)
            for leftover in self.checkpoints.glob(".*"):  # of a process that was killed while it wrote
                leftover.unlink(missing_ok=True)
            yield

    def save_checkpoint(self, step: int, data: Mapping[str, Any]) -> None:
        """Write a checkpoint, then drop those that are older than the ones to keep.

        Raises:
            OutputError: If it cannot be written; the checkpoints before it stay.
        """
        path = self.checkpoints / f"{step:08d}.pt"
        digest = write_pickled(path, data)
        write_json(path.with_suffix(".json"), {"step": step, "sha256": digest})
        best = self.best.get("step")
        for old in self._manifests()[self.keep :]:
            if int(old.stem) == best:
                continue
            with suppress(OSError):
                old.unlink()
                old.with_suffix(".pt").unlink()

    @property
    def best(self) -> dict[str, Any]:
        """The step at which validation was best, the name of the number that says so, and its value; or nothing."""
        try:
            return read_json(self.path / BEST_FILE)
        except DcptError:
            return {}

    def note_best(self, step: int, metric: str, value: float) -> None:
        """Take note of the best validation so far, before its checkpoint is saved.

        Raises:
            OutputError: If it cannot be written.
        """
        write_json(self.path / BEST_FILE, {"step": step, "metric": metric, "value": value})

    def load_checkpoint(self) -> dict[str, Any] | None:
        """Return the newest checkpoint that is whole, or None if there never was one.

        Raises:
            CheckpointMismatch: If there are some, but none that is whole.

        Warns:
            UserWarning: For every damaged one that is passed over.
        """
        manifests, reasons = self._manifests(), []
        for manifest in manifests:
            try:
                content = manifest.with_suffix(".pt").read_bytes()
                if hashlib.sha256(content).hexdigest() != read_json(manifest)["sha256"]:
                    raise ValueError("its content differs from its sha256")
                data = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            except Exception as error:  # torch raises many kinds here
                reasons.append(f"{manifest.with_suffix('.pt').name} is damaged ({str(error).partition(chr(10))[0]})")
                continue
            for reason in reasons:
                warnings.warn(f"{reason}; going on from step {data['step']}", stacklevel=2)
            return data
        if reasons:
            raise CheckpointMismatch(f"cannot resume from {self.path}: {'; '.join(reasons)}; choose a new folder")
        return None

    def _manifests(self) -> list[Path]:
        return sorted(self.checkpoints.glob("[0-9]*.json"), reverse=True)

    def append_log(self, row: Mapping[str, float]) -> None:
        """Add one JSON line to the log.

        Raises:
            OutputError: If it cannot be written.
        """
        path = self.path / LOG_FILE
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from None

    def keep_log_until(self, step: int) -> None:
        """Drop the log lines of steps after `step`, which will be logged again, and a line cut short."""
        path = self.path / LOG_FILE
        if not path.exists():
            return

        def is_kept(line: str) -> bool:
            try:
                return json.loads(line)["step"] <= step
            except (ValueError, KeyError, TypeError):
                return False

        kept = [line for line in path.read_text(encoding="utf-8").splitlines() if is_kept(line)]
        with atomic_path(path) as temporary:
            temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
