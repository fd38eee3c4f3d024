"""Commands for weights: what there is, where it comes from and where it goes."""

from __future__ import annotations

import json
from pathlib import Path

import click

from dcpt.cli.base import OPTION, PATH, main, parse_options, print_facts


@main.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with everything that is known.")
def list_command(as_json: bool) -> None:
    """List the weights that can be loaded by name; asks nothing of the network."""
    from dcpt.listing import describe_weights, format_weights

    click.echo(json.dumps(describe_weights(), indent=2) if as_json else format_weights())


@main.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--to", "folder", type=PATH, help="Copy the files there, a folder per name.")
def download(names: tuple[str, ...], folder: Path | None) -> None:
    """Fetch the weights NAMES, or repositories on the Hub, for later use without network."""
    from dcpt.hub import locate
    from dcpt.publishing import copy_weights

    for name in names:
        click.echo(locate(name) if folder is None else copy_weights(name, folder))


@main.command()
@click.argument("file", type=PATH)
@click.option("--as", "name", metavar="NAME", help="Name of weights, which then load by it on this machine for good.")
@click.option("-o", "--out", "folder", type=PATH, help="Model folder to write instead.")
@OPTION
def convert(file: Path, name: str | None, folder: Path | None, options: tuple[str, ...]) -> None:
    """Turn the checkpoint FILE of another program into a model folder."""
    from dcpt.publishing import convert_checkpoint

    click.echo(convert_checkpoint(file, name=name, folder=folder, **parse_options(options)))


@main.command()
@click.argument("folder", type=PATH)
@click.argument("repo")
@click.option("--private", is_flag=True, help="Make a new repository visible to you alone.")
def publish(folder: Path, repo: str, private: bool) -> None:
    """Upload the model FOLDER to the repository REPO (organisation/name) on the Hub, with a model card."""
    from dcpt.publishing import publish_folder

    click.echo(f"{repo}@{publish_folder(folder, repo, private=private)}")


@main.command()
@click.argument("model")
@OPTION
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of lines.")
def inspect(model: str, options: tuple[str, ...], as_json: bool) -> None:
    """Tell what the weights MODEL are: a checkpoint file, a model folder or a name."""
    from dcpt.hub import inspect_model

    print_facts(inspect_model(model, **parse_options(options)), as_json)


@main.command()
@click.argument("model")
@OPTION
@click.option("-o", "--output", required=True, type=PATH, help="File to write: .safetensors or .pth.")
@click.option(
    "--dialect", type=click.Choice(["published", "dcpt"]), default="published", show_default=True,
    help="Names of the published network (spandrel, chaiNNer, ComfyUI) or of DCPT.",
)  # fmt: skip
def export(model: str, options: tuple[str, ...], output: Path, dialect: str) -> None:
    """Write the weights MODEL (a name, folder or file) as other programs read them."""
    from dcpt.conversion import export_checkpoint
    from dcpt.hub import from_pretrained

    export_checkpoint(from_pretrained(model, **parse_options(options)), output, dialect=dialect)
