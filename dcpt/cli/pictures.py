"""Commands for photographs: restore and degrade."""

from __future__ import annotations

import functools
import io
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import click

from dcpt.cli.base import DEVICE, OPTION, main, parse_options
from dcpt.errors import DcptError, InvalidImage, OutputError

MOST_INPUT = 2**31  # bytes of a picture on standard input, about as many as a file may have


def restore_options(command: Any) -> Any:
    """Add the many options of the command restore."""
    options = (
        click.option("-o", "--output", required=True, help="Picture or folder to write; - for standard output."),
        click.option("-r", "--recursive", is_flag=True, help="Restore folders in folders, too."),
        click.option(
            "--model", default="nafnet-small-10d", show_default=True, help="Name, folder, file or Hub repository."
        ),
        OPTION,
        DEVICE,
        click.option(
            "--strength", type=click.FloatRange(0, 1), default=1, show_default=True, help="0 changes nothing."
        ),
        click.option(
            "--only", default="", metavar="A,B", help="Degradations to remove, as far as diagnosis tells them apart."
        ),
        click.option("--keep", default="", metavar="A,B", help="Degradations to leave in, such as haze."),
        click.option(
            "--protect-clean/--no-protect-clean",
            default=None,
            help="Leave pictures that look clean untouched, bit for bit; default: in a folder, yes.",
        ),
        click.option("--exact", is_flag=True, help="No tiles: what the network gives for the whole, in little memory."),
        click.option("--tile-size", type=int, help="Side of a tile in pixels; default: what memory allows."),
        click.option("--overlap", type=int, default=64, show_default=True, help="Pixels that tiles share."),
        click.option(
            "--precision",
            type=click.Choice(["float32", "bfloat16", "float16"]),
            default="float32",
            show_default=True,
            help="Type of numbers to compute with.",
        ),
        click.option("--format", help="Format to write, such as png; default: that of each picture."),
        click.option("--strip", is_flag=True, help="Leave out EXIF, XMP and texts."),
        click.option("--allow-truncated", is_flag=True, help="Take what is there of files cut short."),
        click.option("--overwrite", is_flag=True, help="Replace pictures that exist already."),
        click.option("-j", "--jobs", type=click.IntRange(1), default=1, show_default=True, help="Pictures at a time."),
        click.option(
            "--report/--no-report", default=None, help="Write report.html and .json; default: of a folder, yes."
        ),
        click.option("--watch", is_flag=True, help="Go on with pictures that come into a folder, until Ctrl-C."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@main.command()
@click.argument("paths", nargs=-1, required=True)
@restore_options
def restore(
    paths: tuple[str, ...], output: str, recursive: bool, watch: bool, report: bool | None, jobs: int, **settings: Any
) -> None:
    """Restore the picture PATHS, - for standard input; or several, folders and globs, into a folder.

    What an earlier run into the folder did is not done again; a picture that fails does not stop
    the others.

    \b
    Exit codes:
      0    all done
      1    some picture failed, or there is a mistake
      2    wrong usage
      130  interrupted; repeat the command to go on
    With --watch, which Ctrl-C ends, it is 0 or 1 once the model is loaded.
    """
    with exit_when_interrupted():
        from dcpt.restoration_plan import Job, count_others, is_single, name_single, plan_jobs

        files = {name: settings.pop(name) for name in ("format", "strip", "allow_truncated", "overwrite")}
        single = is_single(paths)
        if settings["protect_clean"] is None:
            settings["protect_clean"] = not single
        if "-" in (output, *paths) and (report or not single):
            raise DcptError("expected one picture and no --report beside -, give a folder to write to")
        if watch and single:
            raise DcptError(f"expected a folder to watch, got {paths[0]}")
        if single and not report:
            restore_single(paths[0], output, settings, **files)
        elif single:
            job = Job(Path(paths[0]), name_single(paths[0], output, files["format"]))
            files["format"] = job.target.suffix
            restore_several(lambda: [job], job.target.parent, settings, report=True, **files)
        else:
            folder = Path(output)
            plan = functools.partial(plan_jobs, paths, folder, recursive=recursive, format=files["format"])
            others = functools.partial(count_others, paths, folder, recursive=recursive)
            files |= {"count_others": others, "report": report is not False, "workers": jobs}
            restore_several(plan, folder, settings, watch=watch, **files)


@contextmanager
def exit_when_interrupted() -> Iterator[None]:
    """End with exit code 130 on Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo("interrupted; repeat the command to go on", err=True)
        raise SystemExit(130) from None


def restore_single(
    source: str, output: str, settings: dict[str, Any], *, format: str | None, overwrite: bool, **files: bool
) -> None:
    """Restore one picture: from a file or standard input, to a file or standard output."""
    from dcpt.files import atomic_path
    from dcpt.image import FORMAT_OF_SUFFIX
    from dcpt.restoration_plan import check_target, format_suffix, name_single

    target = None if output == "-" else name_single(source, output, format)
    if source != "-" and not os.path.lexists(source):
        raise InvalidImage(f"expected a picture or a folder, found nothing at {source}")
    if target:
        check_target(Path(source), target, overwrite=overwrite)
    elif sys.stdout.isatty():
        raise OutputError("expected standard output to be a file or a pipe, got the terminal")
    suffix = target.suffix.lower() if target else format_suffix(format)
    picture = read_input() if source == "-" else Path(source)
    restorer = load_restorer(**settings)
    from dcpt.restoration_run import restore_file

    data = restore_file(restorer, picture, format=FORMAT_OF_SUFFIX[suffix] if suffix else None, **files).data
    if target is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()  # here, where a closed pipe ends quietly
        return
    with atomic_path(target) as temporary:
        temporary.write_bytes(data)


def read_input() -> bytes:
    """Read standard input.

    Raises:
        InvalidImage: If it has more than `MOST_INPUT` bytes.
    """
    data = io.BytesIO()
    while block := sys.stdin.buffer.read(1 << 20):
        data.write(block)
        if data.tell() > MOST_INPUT:
            raise InvalidImage(
                f"expected at most {MOST_INPUT} bytes on standard input, got more; give a smaller picture"
            )
    return data.getvalue()


def restore_several(
    plan: Callable[[], list[Any]],
    folder: Path,
    settings: dict[str, Any],
    *,
    count_others: Callable[[], int] = int,
    watch: bool = False,
    **files: Any,
) -> None:
    """Restore pictures into a folder, with a bar that tells how long it takes; say what failed and count.

    Args:
        plan: Lists the pictures.
        folder: Where to write.
        settings: Those of `load_restorer`.
        count_others: Counts the files that are not named as pictures; default none.
        watch: Whether to wait for more pictures.
        **files: Settings of `FolderRun`.

    Raises:
        DcptError: If pictures failed.
    """
    jobs = [] if watch else plan()
    restorer = load_restorer(**settings)
    from tqdm import tqdm

    from dcpt.restoration_journal import DONE, FAILED, UNTOUCHED, printable
    from dcpt.restoration_plan import REPORT_PAGE
    from dcpt.restoration_run import FolderRun

    run = FolderRun(restorer, folder, model=settings["model"], **files)
    with closing(run.watch(plan) if watch else run.restore(jobs)) as records:
        try:
            for record in tqdm(records, total=None if watch else len(jobs), unit="picture", disable=None):
                if record.status == FAILED:
                    tqdm.write(f"failed: {record.reason}", file=sys.stderr)
        except KeyboardInterrupt:
            if not watch:
                raise
    counts = Counter(record.status for record in run.records.values())
    earlier = sum(record.earlier for record in run.records.values())
    facts = f"{counts[DONE]} restored, {counts[UNTOUCHED]} left untouched"
    page = f"; see {printable(str(folder / REPORT_PAGE))}" if run.report else ""
    click.echo(f"{facts}; {earlier} of these by an earlier run{page}")
    if others := count_others():
        click.echo(f"{others} other {'file was' if others == 1 else 'files were'} not looked at, going by the names")
    if counts[FAILED]:
        raise DcptError(f"{counts[FAILED]} of {counts.total()} pictures could not be restored")


def load_restorer(*, model: str, options: tuple[str, ...], only: str, keep: str, **settings: Any) -> Any:
    """Return the restorer that the options of the command line describe."""
    from dcpt.hub import from_pretrained
    from dcpt.restoration import Restorer

    names = {key: split_names(text) for key, text in (("only", only), ("keep", keep))}
    return Restorer(from_pretrained(model, **parse_options(options)), **names, **settings)


def split_names(text: str) -> list[str]:
    """Split A,B,... at its commas."""
    return [name for name in map(str.strip, text.split(",")) if name]


class DegradeCommand(click.Command):
    """A command with one option per registered degradation, looked up when it is needed."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the declared options and one per degradation."""
        from dcpt.degradations import list_degradations

        options = [
            click.Option([f"--{name.replace('_', '-')}", name], type=click.FloatRange(0, 1), metavar="SEVERITY")
            for name in list_degradations()
        ]
        return [*super().get_params(ctx), *options]


@main.command(cls=DegradeCommand)
@click.argument("path")
@click.option("-o", "--output", required=True, help="Picture to write; a folder if PATH is one.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, help="The same seed gives the same picture.")
@click.option("--overwrite", is_flag=True, help="Replace pictures that exist already.")
def degrade(path: str, output: str, seed: int, overwrite: bool, **severities: float | None) -> None:
    """Degrade a picture, or every picture of a folder; severities from 0 (mild) to 1 (strong)."""
    jobs = plan_outputs(path, output, overwrite=overwrite)
    from dcpt.degradations import degrade

    chosen = {name: severity for name, severity in severities.items() if severity is not None}
    run_jobs(jobs, lambda source: degrade(source, seed=seed, **chosen))


def plan_outputs(path: str, output: str, *, overwrite: bool) -> list[tuple[Path, Path]]:
    """Pair each input picture with the file to write, before any work is done.

    Raises:
        InvalidImage: If there is no input.
        OutputError: If a result would replace its input, or a file and `overwrite` is off.
    """
    from dcpt.restoration_plan import Job, check_target, is_single, name_single, plan_jobs

    if is_single([path]):
        jobs = [Job(Path(path), name_single(path, output))]
    else:
        jobs = plan_jobs([path], Path(output), recursive=True)
    for job in jobs:
        if job.problem:
            raise OutputError(job.problem)
        check_target(job.source, job.target, overwrite=overwrite)
    return [(job.source, job.target) for job in jobs]


def run_jobs(jobs: list[tuple[Path, Path]], process: Any) -> None:
    """Process the pictures one by one; a broken one is reported and does not stop the rest."""
    from tqdm import tqdm

    from dcpt.image import write_image

    failures = []
    for source, target in tqdm(jobs, unit="picture", disable=len(jobs) == 1):
        try:
            write_image(process(source), target)
        except DcptError as error:
            failures.append(str(error))
    if failures and len(jobs) == 1:
        raise DcptError(failures[0])
    for failure in failures:
        click.echo(f"skipped: {failure}", err=True)
    if failures:
        raise DcptError(f"{len(failures)} of {len(jobs)} pictures could not be processed")
