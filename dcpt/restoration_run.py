"""Restore many pictures into a folder: resumable, several at a time, a broken one never stops the rest."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from dcpt.checkpoint import hash_weights
from dcpt.diagnosis import Diagnosis, diagnose
from dcpt.errors import DcptError, InvalidImage, OutputError
from dcpt.image import FORMAT_OF_SUFFIX
from dcpt.memory import is_out_of_memory
from dcpt.photographs import open_photograph
from dcpt.restoration import Restoration, Restorer
from dcpt.restoration_journal import DONE, FAILED, UNTOUCHED, OutputFolder, Record, hash_file, printable
from dcpt.restoration_plan import REPORT_DATA, REPORT_PAGE, Job, check_target, format_suffix, plan_jobs
from dcpt.restoration_report import MOST_PREVIEWS, has_previews, write_previews, write_report

# What of a restorer determines its results; the device does not, but for rounding.
SETTINGS = ("tile_size", "overlap", "exact", "precision", "strength", "only", "keep", "protect_clean")
BACKBONE_SETTINGS = ("variant", "overrides", "silent_options")  # options may leave no trace in the weights
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

Item, Result = TypeVar("Item"), TypeVar("Result")
Identity = tuple[int, int, int]


@dataclass(frozen=True)
class RestoredFile:
    """A restored picture, ready to be written.

    Attributes:
        data: The file to write.
        pixels: The picture as it was, (1, 3, H, W), RGB in [0, 1].
        restoration: What came of it.
    """

    data: bytes
    pixels: Tensor
    restoration: Restoration


def restore_file(
    restorer: Restorer,
    source: str | Path | bytes,
    *,
    format: str | None = None,
    strip: bool = False,
    allow_truncated: bool = False,
    diagnose: bool = False,
) -> RestoredFile:
    """Restore a picture file; writes nothing.

    A picture left untouched because it is clean comes back bit for bit, unless another format is
    wanted, `strip` is, or the file is cut short.

    Args:
        restorer: Does the work.
        source: Path of the file, or its bytes.
        format: Pillow's name of the format to encode in; default the format of the source.
        strip: Leave out EXIF, XMP and texts.
        allow_truncated: Take what is there of a file cut short.
        diagnose: Whether to tell what is wrong with it in any case.

    Raises:
        InvalidImage: If it is not a readable picture.
        OutputError: If the format cannot hold it.
    """
    photograph = open_photograph(source, allow_truncated=allow_truncated)
    photograph.check_format(format)
    restoration = restorer.process(photograph.pixels, diagnose=diagnose)
    same = format in (None, photograph.format) and not (strip or photograph.truncated)
    if restoration.untouched and same:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    else:
        data = photograph.encode(restoration.pixels, format, strip=strip)
    return RestoredFile(data, photograph.pixels, restoration)


def restore_folder(
    restorer: Restorer,
    source: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    recursive: bool = False,
    format: str | None = None,
    **settings: Any,
) -> Iterator[Record]:
    """Restore all pictures of a folder into another; yield what became of each, in the order of their names.

    What an earlier call did, finished or not, is not done again. A picture that cannot be restored
    gives a record of status "failed" and does not stop the rest.

    Args:
        restorer: Does the work.
        source: Folder, picture, glob or several of them.
        output: Folder to write to.
        recursive: Whether to search the folders in folders, too.
        format: Suffix of the format to write, such as "png"; default that of each picture.
        **settings: Those of `FolderRun`.

    Raises:
        DcptError: As `plan_jobs` and `FolderRun.restore`, before the first picture.
    """
    inputs = [source] if isinstance(source, (str, Path)) else source
    jobs = plan_jobs(inputs, Path(output), recursive=recursive, format=format)
    return FolderRun(restorer, output, format=format, **settings).restore(jobs)


class FolderRun:
    """Restores pictures into one folder.

    Args:
        restorer: Does the work; used by several threads at once if `workers` is more than one.
        output: Folder to write to.
        format: Suffix of the format to write, such as "png"; default that of each picture.
        strip: Leave out EXIF, XMP and texts.
        allow_truncated: Take what is there of files cut short.
        overwrite: Replace files that are no results of earlier runs, or were made with other settings.
        workers: Pictures to work on at a time; changes no result.
        report: Whether to diagnose all pictures and to write report.json and report.html.
        model: What to call the model in the report.

    Attributes:
        records: What became of the pictures so far, by target.

    Raises:
        InvalidSetting: If there is no such format.
    """

    def __init__(
        self,
        restorer: Restorer,
        output: str | Path,
        *,
        format: str | None = None,
        strip: bool = False,
        allow_truncated: bool = False,
        overwrite: bool = False,
        workers: int = 1,
        report: bool = False,
        model: str = "",
    ) -> None:
        self.restorer, self.folder = restorer, OutputFolder(Path(output))
        suffix = format_suffix(format)
        self.format = FORMAT_OF_SUFFIX[suffix] if suffix else None
        self.strip, self.allow_truncated, self.overwrite = strip, allow_truncated, overwrite
        self.workers, self.report = workers, report
        self.settings = {name: getattr(restorer, name) for name in SETTINGS}
        self.settings |= {"format": self.format, "strip": strip, "allow_truncated": allow_truncated}
        self.settings["weights"] = hash_weights(restorer.backbone)
        self.settings |= {name: getattr(restorer.backbone, name) for name in BACKBONE_SETTINGS}
        settings = json.dumps(self.settings, sort_keys=True, default=str)
        self.digest = hashlib.sha256(settings.encode()).hexdigest()
        self.settings = json.loads(settings)
        self.model = model
        self.records: dict[str, Record] = {}
        self._previewed: set[str] = set()

    def restore(self, jobs: Sequence[Job]) -> Iterator[Record]:
        """Restore the pictures; yield a record of each, in their order.

        Raises:
            DcptError: If another run writes to the folder.
            OutputError: If it cannot be written to, is full, or has a report that is not ours.
        """
        with self._locked():
            yield from self._restore_all(jobs)

    def watch(self, plan: Callable[[], list[Job]], *, interval: float = 1.0) -> Iterator[Record]:
        """Restore the pictures planned, and for ever what is new or changed and then stays so for two looks.

        Args:
            plan: Lists the pictures there are; one that raises InvalidImage found none.
            interval: Seconds between two looks.

        Raises:
            DcptError: As `restore`.
        """
        # By source and target: which picture a name goes to may change when others come.
        seen: dict[tuple[Path, Path], Identity] = {}
        done: dict[tuple[Path, Path], Identity] = {}
        with self._locked():
            for look in count():
                try:
                    jobs = {(job.source, job.target): job for job in plan()}
                except InvalidImage:
                    jobs = {}
                now = {pair: identify(pair[0]) for pair in jobs}
                new = {pair: job for pair, job in jobs.items() if done.get(pair) != now[pair]}
                ready = {pair: job for pair, job in new.items() if look == 0 or seen.get(pair) == now[pair]}
                if ready:
                    yield from self._restore_all(list(ready.values()))
                done |= {pair: now[pair] for pair in ready}
                seen = now
                time.sleep(interval)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        known = self.folder.is_known
        with self.folder.locked():
            for name in (REPORT_DATA, REPORT_PAGE):
                path = self.folder.path / name
                if self.report and path.exists() and not known and not self.overwrite:
                    raise OutputError(f"{path} exists; choose another output or add --overwrite or --no-report")
            yield

    def _restore_all(self, jobs: Sequence[Job]) -> Iterator[Record]:
        free = max(0, MOST_PREVIEWS - len(self._previewed))
        self._previewed |= {self.folder.relative(job.target) for job in jobs[:free]}
        try:
            for record in map_in_order(self._attempt, jobs, workers=self.workers):
                self.records[record.target] = record
                yield record
        finally:
            if self.report and self._has_news():
                write_report(self.folder, list(self.records.values()), model=self.model, settings=self.settings)

    def _has_news(self) -> bool:
        """Whether anything went through; else the report of an earlier run says more."""
        went_through = any(record.status != FAILED for record in self.records.values())
        return went_through or not (self.folder.path / REPORT_DATA).exists()

    def _attempt(self, job: Job) -> Record:
        """Return the record of a picture, whatever happens to it."""
        try:
            return self._restore(job)
        except Exception as error:  # of a decoder, a network, a device: the other pictures may well go through
            if isinstance(error, OSError) and error.errno in FULL:
                raise self._stop(error) from None
            source, target = self.folder.relative(job.source), self.folder.relative(job.target)
            record = Record(source, target, FAILED, reason=explain(error, job))
        try:
            self.folder.note(record)
        except OSError as error:
            raise self._stop(error) from None
        return record

    def _stop(self, error: OSError) -> OutputError:
        remedy = "repeat the command when there is room, it goes on where it stopped"
        return OutputError(f"cannot write to {self.folder.path}: {error.strerror or error}; {remedy}")

    def _restore(self, job: Job) -> Record:
        if job.problem:
            raise OutputError(job.problem)
        if os.path.isdir(job.source):
            raise InvalidImage(f"cannot look into the folder {job.source}")
        name = self.folder.relative(job.target)
        earlier = self.folder.records.get(name)
        if earlier and self._is_done(job, earlier):
            return replace(self._complete(job, earlier), earlier=True)
        self._check_target(job, earlier)
        started, before = time.perf_counter(), identify(job.source)
        restored = restore_file(
            self.restorer,
            job.source,
            format=self.format,
            strip=self.strip,
            allow_truncated=self.allow_truncated,
            diagnose=self.report,
        )
        digest = hash_file(job.source)
        if identify(job.source) != before:
            raise InvalidImage(f"expected a file at rest, but {job.source} changed while it was read; try again")
        diagnosis = restored.restoration.diagnosis
        record = Record(
            source=self.folder.relative(job.source),
            target=name,
            status=UNTOUCHED if restored.restoration.untouched else DONE,
            size=before[0],
            sha256=digest,
            output_sha256=hashlib.sha256(restored.data).hexdigest(),
            settings=self.digest,
            width=restored.pixels.shape[-1],
            height=restored.pixels.shape[-2],
            seconds=round(time.perf_counter() - started, 3),
            diagnosis=summarise(diagnosis) if diagnosis else None,
        )
        if self.report and name in self._previewed:
            write_previews(self.folder, name, restored.pixels, restored.restoration.pixels)
        self.folder.write(job.target, restored.data, record)
        return record

    def _complete(self, job: Job, earlier: Record) -> Record:
        """Return the record of a picture that is done, with what the report wants and runs without one left out."""
        name = earlier.target
        lacks_previews = name in self._previewed and not has_previews(self.folder, name)
        if not self.report or (earlier.diagnosis and not lacks_previews):
            return earlier
        pixels = open_photograph(job.source, allow_truncated=self.allow_truncated).pixels
        if lacks_previews:
            write_previews(self.folder, name, pixels, open_photograph(job.target).pixels)
        if not earlier.diagnosis:
            earlier = replace(earlier, diagnosis=summarise(diagnose(pixels, device=self.restorer.device)))
            self.folder.note(earlier)
        return earlier

    def _is_done(self, job: Job, earlier: Record) -> bool:
        return (
            earlier.settings == self.digest
            and identify(job.source)[0] == earlier.size
            and hash_file(job.source) == earlier.sha256
            and hash_file(job.target) == earlier.output_sha256
        )

    def _check_target(self, job: Job, earlier: Record | None) -> None:
        """Raise OutputError if the result would replace what it must not."""
        target = job.target
        check_target(job.source, target, overwrite=self.overwrite or self.folder.holds_own(target))
        if self.overwrite or earlier is None or not os.path.lexists(target):
            return
        if earlier.settings != self.digest:
            raise OutputError(f"{target} was made with other settings; choose another output or add --overwrite")
        if earlier.source != self.folder.relative(job.source):
            raise OutputError(f"{target} was made of {earlier.source}; choose another output or add --overwrite")


def identify(path: Path) -> Identity:
    """Return the size of a file and what changes when it does; zeros if there is none."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return 0, 0, 0
    return status.st_size, status.st_mtime_ns, status.st_ino


def summarise(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return a diagnosis as plain data, without the map."""
    return {key: value for key, value in diagnosis.as_dict().items() if key != "map"}


def explain(error: Exception, job: Job) -> str:
    """Tell on one line why a picture failed."""
    reason = str(error) if isinstance(error, (DcptError, OSError)) else f"{type(error).__name__}: {error}"
    if is_out_of_memory(error) and not isinstance(error, DcptError):  # torch's own words are several lines
        reason = "out of memory; try smaller tiles or fewer pictures at a time"
    if not any(name in reason for name in (str(job.source), repr(str(job.source)), str(job.target))):
        reason = f"{job.source}: {reason}"
    return printable(reason)


def map_in_order(function: Callable[[Item], Result], items: Sequence[Item], *, workers: int = 1) -> Iterator[Result]:
    """Apply a function in several threads; yield the results in the order of the items.

    Only a few items are under way at any time. Ends when those that run have.
    """
    if workers == 1:
        yield from map(function, items)
        return
    rest = iter(items)
    with ThreadPoolExecutor(workers) as pool:
        try:
            waiting = deque(pool.submit(function, item) for item in islice(rest, 2 * workers))
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in islice(rest, 1))
                yield result
        finally:
            pool.shutdown(cancel_futures=True)
