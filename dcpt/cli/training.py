"""Commands for training: data, the two stages of the method, and runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from dcpt.cli.base import DEVICE, PATH, main, parse_settings, print_facts
from dcpt.errors import DcptError, OutputError


@main.group()
def runs() -> None:
    """Look at training runs."""


@runs.command()
@click.argument("folder", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of lines.")
@click.option("--plot", type=PATH, help="Picture of the curves to write, such as curves.png.")
def show(folder: Path, as_json: bool, plot: Path | None) -> None:
    """Tell how far the run in FOLDER has come."""
    from dcpt.runs import plot_curves, summarise_run

    print_facts(summarise_run(folder), as_json)
    if plot:
        plot_curves(folder, plot)


LAYOUT = click.option(
    "--layout", type=click.Choice(["5d", "10d", "cdd11"]), help="The folder has the published sets of a paper's table."
)


def find_layout(name: str, root: Path, *, split: str = "train") -> Any:
    """Find published sets below a folder; say what of them is incomplete."""
    from dcpt.data.layouts import find_published

    found = find_published(name, root, split=split)
    for line in found.incomplete:
        click.echo(f"incomplete: {line}", err=True)
    return found.as_folders()


@main.group()
def data() -> None:
    """Look at training data."""


@data.command()
@click.argument("folder", type=PATH)
@LAYOUT
@click.option("--split", type=click.Choice(["train", "test"]), default="train", help="Of a published set.")
def check(folder: Path, layout: str | None, split: str) -> None:
    """Count the pictures of FOLDER, a folder per degradation, and name those that cannot serve."""
    from tqdm import tqdm

    from dcpt.data.folders import check_folders, read_folders

    found = find_layout(layout, folder, split=split) if layout else read_folders(folder)
    for label in found.labels:
        pairs = found.pairs[label]
        made, paired = (sum(kind) for kind in ([x.made for x in pairs], [x.gt is not None for x in pairs]))
        ending = "to be degraded" if made == len(pairs) else "with a clean one"
        click.echo(f"{label:20}{len(pairs):8} pictures,{made if made == len(pairs) else paired:8} {ending}")
    problems = check_folders(found, progress=tqdm)
    for path, problem in sorted(problems.items()):
        click.echo(f"{path.relative_to(folder)}: {problem}", err=True)
    if problems:
        raise DcptError(f"{len(problems)} pictures cannot serve; training leaves them out")


@main.command()
@click.argument("folders", nargs=-1, required=True, type=PATH)
@click.option("-o", "--output", required=True, type=PATH, help="File to write, ending in .safetensors.")
@click.option("--crop-size", type=click.IntRange(16), default=256, show_default=True, help="Side in pixels.")
def pack(folders: tuple[Path, ...], output: Path, crop_size: int) -> None:
    """Pack folders of clean photographs into one file of crops, the fastest training data."""
    from dcpt.data.crops import pack_crops

    if output.suffix != ".safetensors":
        raise OutputError(f"expected an output name ending in .safetensors, got {output.name}")
    crops = pack_crops(folders, crop_size=crop_size)
    crops.save(output)
    click.echo(f"{len(crops.pixels)} crops of {len(crops.files)} photographs, manifest {crops.manifest_hash}")


def training_options(command: Any) -> Any:
    """Add the arguments and options that both training commands share."""
    for option in (
        click.argument("data", nargs=-1, required=True, type=PATH),
        click.option("-o", "--output", required=True, type=PATH, help="Run folder; an unfinished run resumes."),
        click.option("--recipe", default="small-10d", show_default=True, help="Name or file of a recipe."),
        click.option("--backbone", help="Another backbone than the recipe's."),
        click.option("--from", "start", help="Trained weights to start from: a name, folder or Hub repository."),
        LAYOUT,
        click.option("--weights", metavar="W,W", help="How often to draw from each DATA, such as 3,1."),
        click.option("--validation", multiple=True, type=PATH, help="Data to validate on, instead of a share of DATA."),
        click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a setting of the recipe."),
        DEVICE,
    ):
        command = option(command)
    return command


@main.command()
@training_options
def pretrain(**arguments: Any) -> None:
    """Pre-train backbone and classifier on DATA: clean photographs, packed ones, or a folder per degradation."""
    from dcpt.pretraining import pretrain

    run_stage(pretrain, **arguments)


@main.command()
@training_options
def finetune(**arguments: Any) -> None:
    """Fine-tune for restoration on DATA: clean photographs, packed ones, or a folder per degradation."""
    from dcpt.finetuning import finetune

    run_stage(finetune, **arguments)


def run_stage(
    train: Any,
    *,
    data: tuple[Path, ...],
    output: Path,
    backbone: str | None,
    layout: str | None,
    weights: str | None,
    validation: tuple[Path, ...],
    settings: tuple[str, ...],
    **options: Any,
) -> None:
    """Run a training stage with the settings of the command line and print the model folder."""
    from dcpt.recipe import check_settings

    changes = parse_settings(settings)
    check_settings(changes)  # before one is taken for another argument
    numbers = None if weights is None else parse_weights(weights)
    sources = [find_layout(layout, path) for path in data] if layout else data
    model = train(backbone, sources, output, weights=numbers, validation=validation or None, **options, **changes)
    if int(os.environ.get("RANK", 0)) == 0:  # where several processes train, one speaks
        click.echo(model)


def parse_weights(weights: str) -> list[float]:
    """Split numbers separated by commas."""
    try:
        return [float(weight) for weight in weights.split(",")]
    except ValueError:
        raise DcptError(f"expected numbers such as 3,1 as weights, got {weights!r}") from None
