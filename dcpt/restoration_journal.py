"""The folder that results go to: one run at a time, files whole or not there, and a journal of what was done."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from io import FileIO
from pathlib import Path
from typing import Any

from dcpt import repository
from dcpt.files import locked

STATE_FOLDER, JOURNAL = ".dcpt", "journal.jsonl"
PARTIAL = ".dcpt-partial-"  # begins the name of a file not whole yet, where it cannot be in the state folder
DONE, UNTOUCHED, FAILED = "done", "untouched", "failed"


@dataclass(frozen=True)
class Record:
    """What became of a picture.

    Attributes:
        source: Path of the picture, relative to the output folder.
        target: Path of the result, relative to the output folder.
        status: "done", "untouched" (found clean and left as it was) or "failed".
        reason: Why it failed, in one sentence.
        size: Bytes of the picture's file.
        sha256: Hash of the picture's file.
        output_sha256: Hash of the result's file.
        settings: Hash of all settings that determine the result.
        width: Pixels of the picture, upright.
        height: Likewise.
        seconds: What it took, from reading to encoding.
        diagnosis: What was found in it, without the map, if it was looked for.
        earlier: Whether an earlier run did it; not in the journal.
    """

    source: str
    target: str
    status: str
    reason: str = ""
    size: int = 0
    sha256: str = ""
    output_sha256: str = ""
    settings: str = ""
    width: int = 0
    height: int = 0
    seconds: float = 0.0
    diagnosis: dict[str, Any] | None = None
    earlier: bool = False


class OutputFolder:
    """A folder of results and its journal.

    A line is written before the result gets its name, with the hash of the result: what is there
    under the name and has that hash is done, whenever the process was killed.

    Args:
        path: The folder; made when it is locked.

    Attributes:
        records: The last record of each result, by target, in the order of the journal.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[str, Record] = {}
        self._state = path / STATE_FOLDER
        self._partial = self._state / "partial"
        self._written: set[tuple[str, str]] = set()
        self._journal: FileIO
        self._turn = threading.Lock()

    @property
    def is_known(self) -> bool:
        """Whether there was a run before."""
        return (self._state / JOURNAL).exists()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out until the end of the block, drop what a killed one left, read the journal.

        Raises:
            DcptError: If another process is in there.
            OutputError: If the folder cannot be written to.
        """
        busy = f"another run writes to {self.path}; wait for it, or choose another folder"
        with locked(self._state / "lock", busy=busy):
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial.mkdir()
            whole = self.read()
            # Without a buffer: what does not fit on the disk must not be tried again when it is closed.
            with FileIO(self._state / JOURNAL, "a") as self._journal:
                if not whole:
                    self._journal.write(b"\n")
                yield

    def read(self) -> bool:
        """Read the records in the journal, if there is one; return whether its last line is whole."""
        line = b"\n"
        with suppress(OSError), open(self._state / JOURNAL, "rb") as journal:
            for line in journal:
                try:
                    record = Record(**json.loads(line))
                except (ValueError, TypeError):  # cut short when the process was killed
                    continue
                if record.output_sha256:
                    self._remember(record)
        return line.endswith(b"\n")

    def _remember(self, record: Record) -> None:
        self.records.pop(record.target, None)
        self.records[record.target] = record
        self._written.add((record.target, record.output_sha256))

    def holds_own(self, target: Path) -> bool:
        """Whether the file `target` is a result as this program wrote it."""
        return (self.relative(target), hash_file(target)) in self._written

    def relative(self, path: Path) -> str:
        """Return a path relative to the folder; an absolute one if it is on another drive."""
        try:
            return os.path.relpath(path, self.path)
        except ValueError:
            return os.path.abspath(path)

    def note(self, record: Record) -> None:
        """Add a line to the journal.

        Raises:
            OSError: If there is no room for it.
        """
        plain = asdict(record)
        line = {field.name: plain[field.name] for field in fields(Record) if plain[field.name] != field.default}
        with self._turn:
            self._append(json.dumps(line).encode("ascii") + b"\n")
            os.fsync(self._journal.fileno())
            if record.output_sha256:
                self._remember(record)

    def _append(self, line: bytes) -> None:
        """Append a line to the journal whole or not at all: another thread's may follow."""
        end = self._journal.seek(0, os.SEEK_END)
        try:
            while line:
                line = line[self._journal.write(line) :]
        except OSError:
            with suppress(OSError):
                self._journal.truncate(end)
            raise

    def write(self, target: Path, data: bytes, record: Record | None = None) -> None:
        """Write a file whole or not at all, and before it appears, its record.

        Raises:
            OSError: If it cannot be written.
        """
        partial = self._partial / str(threading.get_ident())
        write_through(partial, data)
        target.parent.mkdir(parents=True, exist_ok=True)
        if record:
            self.note(record)
        try:
            os.replace(partial, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            partial.unlink()
            write_beside(target, data)


def write_through(path: Path, data: bytes) -> None:
    """Write a file to the disk itself."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_beside(target: Path, data: bytes) -> None:
    """Write a file whole or not at all by way of one beside it, in a folder that is on another file system."""
    partial = target.with_name(f"{PARTIAL}{threading.get_ident()}")
    try:
        write_through(partial, data)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def hash_file(path: Path) -> str:
    """Return the sha256 of a file; nothing unless it is a regular one that can be read."""
    try:
        return repository.hash_file(path) if path.is_file() else ""
    except OSError:
        return ""


def printable(text: str) -> str:
    """Return a text on one line, whatever characters a file name brought into it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
