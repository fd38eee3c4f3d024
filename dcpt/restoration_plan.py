"""Which pictures to restore and the file each result goes to, decided before any work."""

from __future__ import annotations

import functools
import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from dcpt.errors import InvalidImage, InvalidSetting, OutputError
from dcpt.image import FORMAT_OF_SUFFIX, output_format
from dcpt.restoration_journal import STATE_FOLDER, OutputFolder

REPORT_PAGE, REPORT_DATA, REPORT_FILES = "report.html", "report.json", "report_files"


@dataclass(frozen=True)
class Job:
    """A picture to read and the file to write.

    Attributes:
        source: The picture.
        target: The file, in the output folder.
        problem: Why it cannot be done, if that is known already.
    """

    source: Path
    target: Path
    problem: str = ""


def plan_jobs(
    inputs: Sequence[str | Path], output: Path, *, recursive: bool = False, format: str | None = None
) -> list[Job]:
    """Find the pictures and choose a file in the folder `output` for each.

    A picture keeps the file that an earlier run chose, whatever has come beside it since; apart
    from that, the choice depends on the names alone.

    Args:
        inputs: Pictures, folders and globs such as `photos/**/*.jpg`. Of a folder, all entries whose
            names end like a picture's, except hidden ones and results of this program; of a glob,
            those of its matches. The tree below them is kept; several folders stay apart, each below its name.
        output: Folder to write to. If it lies in an input, it is left out there.
        recursive: Whether to search the folders in folders, too; links to folders are not followed.
        format: Suffix of the format to write, such as "png"; default that of each picture.

    Raises:
        InvalidImage: If there is no picture, or a folder given cannot be looked into.
        InvalidSetting: If there is no such format.
        OutputError: If `output` is a file or an input folder.
    """
    suffix = format_suffix(format)
    if os.path.lexists(output) and not os.path.isdir(output):
        raise OutputError(f"expected an output folder for several pictures, got the file {output}")
    if _is_named_as_picture(output) and not os.path.isdir(output):
        raise OutputError(f"expected an output folder for several pictures, got {output}, the name of a picture")
    found = find_pictures(inputs, output, recursive=recursive)
    if not found:
        raise InvalidImage(f"expected pictures in {', '.join(map(str, inputs))}, found none")
    folder = OutputFolder(output)
    folder.read()
    earlier = {record.source: PurePath(record.target) for record in folder.records.values()}
    kept = [earlier.get(folder.relative(source)) for source in found]
    targets = [output / name for name in name_targets(list(found.values()), suffix, kept)]
    resolve = functools.cache(os.path.realpath)  # there are fewer folders than pictures
    originals = {(resolve(source.parent), source.name) for source in found}
    problems = [
        f"{target} is an input itself; choose another output"
        if (resolve(target.parent), target.name) in originals
        else ""
        for target in targets
    ]
    return [Job(*row) for row in zip(found, targets, problems, strict=True)]


def format_suffix(format: str | None) -> str | None:
    """Return the suffix of a format such as "png", or None for None.

    Raises:
        InvalidSetting: If there is no such format.
    """
    if format is None:
        return None
    suffix = f".{format.lower().lstrip('.')}"
    if suffix not in FORMAT_OF_SUFFIX:
        raise InvalidSetting(f"expected a format, one of {', '.join(FORMAT_OF_SUFFIX)}, got {format!r}")
    return suffix


def is_single(inputs: Sequence[str | Path]) -> bool:
    """Whether inputs are one picture, to go to a file instead of a folder."""
    return len(inputs) == 1 and not os.path.isdir(inputs[0]) and not is_glob(Path(inputs[0]))


def name_single(source: str | Path, output: str, format: str | None = None) -> Path:
    """Return the file for the only picture; its suffix is the format to write.

    Args:
        source: The picture, or "-".
        output: A file, or a folder: one that exists, or a path that ends in a slash.
        format: Suffix of the format wanted, such as "png".

    Raises:
        InvalidSetting: If there is no such format.
        OutputError: If the file has no suffix of a format, or one of another than wanted.
    """
    suffix, target = format_suffix(format), Path(output)
    if os.path.isdir(target) or output.endswith(("/", os.sep)):
        target /= _with_suffix(PurePath(Path(source).name), suffix)
    if suffix and output_format(target) != FORMAT_OF_SUFFIX[suffix]:
        raise OutputError(f"expected an output name ending in {suffix}, as the format, got {target.name}")
    output_format(target)
    return target


def check_target(source: Path, target: Path, *, overwrite: bool) -> None:
    """Raise OutputError if a result would replace its input, or another file and `overwrite` is off."""
    if not os.path.lexists(target):
        return
    if target.exists() and source.exists() and target.samefile(source):
        raise OutputError(f"{target} is the input itself; choose another output")
    if not overwrite:
        raise OutputError(f"{target} exists; choose another output or add --overwrite")


def find_pictures(inputs: Sequence[str | Path], output: Path, *, recursive: bool = False) -> dict[Path, PurePath]:
    """Return the pictures, and for each the path that is to be kept below the output folder.

    Both are sorted, so that the order is everywhere the same. A folder that cannot be looked into
    is among them, to fail as a picture does. Arguments and errors are those of `plan_jobs`.
    """
    found: dict[str, tuple[PurePath, Path]] = {}
    tops = _name_folders(inputs) if len(inputs) > 1 else {}
    for path in map(Path, inputs):
        if os.path.isdir(path):
            if not os.access(path, os.R_OK | os.X_OK):
                raise InvalidImage(f"cannot look into the folder {path}")
            if path.resolve() == output.resolve():
                raise OutputError(f"expected an output folder other than the input {path}")
            top = tops.get(path.resolve(), PurePath())
            pairs = ((source, top / source.relative_to(path)) for source in _walk(path, output, recursive=recursive))
        elif is_glob(path):
            pairs = _match(path, output)
        else:
            pairs = iter([(path, PurePath(path.name))])
        for source, below in pairs:
            found.setdefault(os.path.abspath(source), (below, source))
    return {source: below for below, source in sorted(found.values())}


def count_others(inputs: Sequence[str | Path], output: Path, *, recursive: bool = False) -> int:
    """Count the files in input folders that are not hidden and not named as pictures; arguments as of `plan_jobs`."""
    folders = {path.resolve() for path in map(Path, inputs) if os.path.isdir(path)}
    return len({path for folder in folders for path in _walk(folder, output, recursive=recursive, pictures=False)})


def _name_folders(inputs: Sequence[str | Path]) -> dict[Path, PurePath]:
    """Choose a folder of the output for each input folder: its name, numbered if another has it."""
    chosen: dict[Path, PurePath] = {}
    taken: set[str] = set()
    for folder in dict.fromkeys(path.resolve() for path in map(Path, inputs) if os.path.isdir(path)):
        name = PurePath(folder.name)
        if _fold(name) in taken:
            name = next(other for other in _alternatives(name, name) if _fold(other) not in taken)
        chosen[folder] = name
        taken.add(_fold(name))
    return chosen


def is_glob(path: Path) -> bool:
    """Whether a path is a pattern and no file of that name."""
    return any(mark in str(path) for mark in "*?[") and not os.path.lexists(path)


def _walk(folder: Path, output: Path, *, recursive: bool, pictures: bool = True) -> Iterator[Path]:
    """Yield what is named as a picture and folders that cannot be looked into; or with `pictures` off, the rest."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        if pictures:
            yield folder
        return
    ours = {REPORT_PAGE, REPORT_DATA, REPORT_FILES} if (folder / STATE_FOLDER).is_dir() else set()
    for entry in entries:
        path = folder / entry.name
        if entry.name.startswith(".") or entry.name in ours:
            continue
        if not os.path.isdir(path):  # nor a link to one
            if _is_named_as_picture(path) == pictures:
                yield path
        elif recursive and not entry.is_symlink() and not _holds_results(path, output):
            yield from _walk(path, output, recursive=True, pictures=pictures)


def _holds_results(folder: Path, output: Path) -> bool:
    return folder.resolve() == output.resolve() or (folder / STATE_FOLDER).is_dir()


def _match(pattern: Path, output: Path) -> Iterator[tuple[Path, PurePath]]:
    """Yield what a glob matches, and its path below the part of the pattern that is no pattern."""
    parts = pattern.parts
    fixed = next(i for i, part in enumerate(parts) if any(mark in part for mark in "*?["))
    top = Path(*parts[:fixed])
    try:
        matches = list(top.glob(str(Path(*parts[fixed:]))))  # does not follow links to folders for **
    except ValueError as error:
        raise InvalidImage(f"expected a pattern such as photos/**/*.jpg, got {pattern}: {error}") from None
    for path in matches:
        below = path.relative_to(top)
        hidden = any(part.startswith(".") for part in below.parts)
        ours = output.resolve() in (path.parent.resolve() / path.name).parents
        if _is_named_as_picture(path) and not (hidden or ours) and not os.path.isdir(path):
            yield path, below


def _is_named_as_picture(path: Path) -> bool:
    return path.suffix.lower() in FORMAT_OF_SUFFIX


def name_targets(names: Sequence[PurePath], suffix: str | None, kept: Sequence[PurePath | None] = ()) -> list[PurePath]:
    """Choose a file for each path, with the suffix wanted; no two are equal, not even where case does not count.

    Where several would get one name, it goes to the one that has it already, else to the first; of
    `a.jpg` and `a.png`, both to be PNG, the former becomes `a_jpg.png`.

    Args:
        names: The paths.
        suffix: Suffix to have, such as ".png"; default that of each path.
        kept: What was chosen for each before; it is chosen again if it might be now.
    """
    wanted = [_with_suffix(name, suffix) for name in names]
    # A folder of the tree may be called like a picture.
    taken = {_fold(parent) for name in names for parent in name.parents} | {REPORT_PAGE, REPORT_DATA, REPORT_FILES}
    chosen: dict[int, PurePath] = {}
    for i, name in enumerate(kept):
        if name and _may_become(wanted[i], name) and _fold(name) not in taken:
            chosen[i] = name
            taken.add(_fold(name))
    order = sorted((i for i in range(len(names)) if i not in chosen), key=lambda i: wanted[i] != names[i])
    for i in order:
        if _fold(wanted[i]) not in taken:
            chosen[i] = wanted[i]
            taken.add(_fold(wanted[i]))
    for i in order:
        if i not in chosen:
            chosen[i] = next(name for name in _alternatives(names[i], wanted[i]) if _fold(name) not in taken)
            taken.add(_fold(chosen[i]))
    return [chosen[i] for i in range(len(names))]


def _with_suffix(name: PurePath, suffix: str | None) -> PurePath:
    kept = suffix is None or FORMAT_OF_SUFFIX.get(name.suffix.lower()) == FORMAT_OF_SUFFIX[suffix]
    return name if kept else name.with_suffix(suffix)


def _alternatives(name: PurePath, wanted: PurePath) -> Iterator[PurePath]:
    changed = name.suffix != wanted.suffix and name.suffix
    stem = f"{wanted.stem}_{name.suffix[1:]}" if changed else wanted.stem
    if changed:
        yield wanted.with_name(stem + wanted.suffix)
    number = 2
    while True:
        yield wanted.with_name(f"{stem}_{number}{wanted.suffix}")
        number += 1


def _may_become(wanted: PurePath, name: PurePath) -> bool:
    """Whether a path is the one wanted or an alternative to it."""
    alike = (name.parent, name.suffix) == (wanted.parent, wanted.suffix)
    return alike and (name.stem == wanted.stem or name.stem.startswith(f"{wanted.stem}_"))


def _fold(path: PurePath) -> str:
    """Return what file systems that ignore case, or how accents are composed, tell paths apart by."""
    return unicodedata.normalize("NFC", path.as_posix()).casefold()
