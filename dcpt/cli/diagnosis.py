"""The command for what is wrong with photographs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import click

from dcpt.cli.base import DEVICE, PATH, main
from dcpt.errors import DcptError, InvalidImage, OutputError


@main.command()
@click.argument("paths", type=PATH, nargs=-1, required=True)
@click.option("--model", default="nafnet-small-10d-pretrain", show_default=True, help="Name or folder, with a head.")
@click.option("-o", "--output", type=PATH, help="Folder for annotated pictures, NAME.png for each NAME.")
@click.option("--overwrite", is_flag=True, help="Replace annotated pictures that exist already.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON per picture.")
@DEVICE
def diagnose(
    paths: tuple[Path, ...], model: str, output: Path | None, overwrite: bool, as_json: bool, device: str | None
) -> None:
    """Tell what is wrong with the pictures PATHS, one line each; of a folder, with all in it."""
    jobs = plan_diagnoses(paths, output, overwrite=overwrite)
    from dcpt.diagnosis import Diagnoser

    diagnoser = Diagnoser(model, device=device)
    failures = []
    for source, target in jobs:
        try:
            click.echo(diagnose_file(diagnoser, source, target, as_json=as_json))
        except DcptError as error:
            failures.append(str(error))
            if len(jobs) > 1:
                click.echo(f"skipped: {error}", err=True)
    if failures:
        several = f"{len(failures)} of {len(jobs)} pictures could not be processed"
        raise DcptError(failures[0] if len(jobs) == 1 else several)


def diagnose_file(diagnoser: Any, source: Path, target: Path | None, *, as_json: bool) -> str:
    """Diagnose one file, write its annotated picture if wanted, and return the line to print."""
    from dcpt.diagnosis_picture import annotate
    from dcpt.image import open_image, write_image

    image = open_image(source)
    diagnosis = diagnoser.diagnose(image)
    if target:
        write_image(annotate(image, diagnosis), target)
    if as_json:
        return json.dumps({"path": str(source)} | diagnosis.as_dict())
    return f"{source}: {diagnosis.summary}"


def plan_diagnoses(paths: tuple[Path, ...], output: Path | None, *, overwrite: bool) -> list[tuple[Path, Path | None]]:
    """Pair each input picture with the annotated picture to write, if wanted, before any work is done.

    Raises:
        InvalidImage: If a folder has no pictures.
        OutputError: If two would be written to one file, or a result would replace a file and
            `overwrite` is off.
    """
    from dcpt.data.crops import find_photographs

    jobs: dict[Path, Path | None] = {}
    for path in paths:
        sources = find_photographs([path]) if path.is_dir() else [path]
        if not sources:
            raise InvalidImage(f"expected pictures in {path}, found none")
        for source in sources:
            below = source.relative_to(path) if path.is_dir() else Path(source.name)
            jobs[source] = output / f"{below}.png" if output else None
    copies = Counter(jobs.values())
    for source, target in jobs.items():
        if target and copies[target] > 1:
            raise OutputError(f"expected pictures of different names, got another one like {source}; choose one")
        if target and target.exists() and (target in jobs or not overwrite):
            raise OutputError(f"{target} exists; choose another folder or add --overwrite")
    return list(jobs.items())
