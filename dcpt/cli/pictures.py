"""Commands for photographs: restore and degrade."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dcpt.cli.base import DEVICE, OPTION, PATH, main, parse_options
from dcpt.errors import DcptError, OutputError


@main.command()
@click.argument("path", type=PATH)
@click.option("-o", "--output", required=True, type=PATH, help="Picture to write; a folder if PATH is one.")
@click.option("--model", default="nafnet-small-10d", show_default=True, help="Name, folder, file or Hub repository.")
@OPTION
@DEVICE
@click.option("--tile-size", default=1024, show_default=True, help="Larger pictures are processed in tiles.")
@click.option("--overwrite", is_flag=True, help="Replace pictures that exist already.")
def restore(
    path: Path, output: Path, model: str, options: tuple[str, ...], device: str | None, tile_size: int, overwrite: bool
) -> None:
    """Restore the picture PATH, or every picture in the folder PATH."""
    jobs = plan_outputs(path, output, overwrite=overwrite)
    from dcpt.hub import from_pretrained
    from dcpt.restoration import Restorer

    backbone = from_pretrained(model, **parse_options(options))
    restorer = Restorer(backbone, device=device, tile_size=tile_size)
    run_jobs(jobs, restorer.restore)


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
@click.argument("path", type=PATH)
@click.option("-o", "--output", required=True, type=PATH, help="Picture to write; a folder if PATH is one.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, help="The same seed gives the same picture.")
@click.option("--overwrite", is_flag=True, help="Replace pictures that exist already.")
def degrade(path: Path, output: Path, seed: int, overwrite: bool, **severities: float | None) -> None:
    """Degrade a picture, or every picture of a folder; severities from 0 (mild) to 1 (strong)."""
    jobs = plan_outputs(path, output, overwrite=overwrite)
    from dcpt.degradations import degrade

    chosen = {name: severity for name, severity in severities.items() if severity is not None}
    run_jobs(jobs, lambda source: degrade(source, seed=seed, **chosen))


def plan_outputs(path: Path, output: Path, *, overwrite: bool) -> list[tuple[Path, Path]]:
    """Pair each input picture with the file to write, before any work is done.

    Raises:
        InvalidImage: If there is no input.
        OutputError: If a result would replace a file and `overwrite` is off.
    """
    from dcpt.data.crops import find_photographs
    from dcpt.errors import InvalidImage
    from dcpt.image import output_format

    if not path.exists():
        raise InvalidImage(f"expected a picture or a folder, found nothing at {path}")
    if path.is_dir():
        jobs = [(source, output / source.relative_to(path)) for source in find_photographs([path])]
    else:
        jobs = [(path, output / path.name if output.is_dir() else output)]
    if not jobs:
        raise InvalidImage(f"expected pictures in {path}, found none")
    for source, target in jobs:
        output_format(target)
        if target.exists() and target.samefile(source):
            raise OutputError(f"{target} is the input itself; choose another output")
        if target.exists() and not overwrite:
            raise OutputError(f"{target} exists; choose another output or add --overwrite")
    return jobs


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
