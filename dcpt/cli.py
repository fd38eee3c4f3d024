"""The command line: one verb, one short function. Heavy imports happen inside the verbs."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import click

from dcpt.errors import DcptError, OutputError

PATH = click.Path(path_type=Path)
DEVICE = click.option("--device", help="cpu, cuda or mps; default: the fastest there is.")
OPTION = click.option(
    "--option", "options", multiple=True, metavar="KEY=VALUE",
    help="What a checkpoint file does not tell of its network, such as attention=softmax.",
)  # fmt: skip


class Commands(click.Group):
    """A group that turns a user's mistake into one line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # its retries; what comes of them is said in one line
        warnings.showwarning = lambda message, *_, **__: click.echo(f"warning: {message}", err=True)
        try:
            return super().invoke(ctx)
        except (DcptError, OSError, MemoryError) as error:
            message = " ".join(str(error).split()) or type(error).__name__
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError":  # torch's own kind, and torch is not loaded here
                raise
            message = "the device is out of memory; try a smaller --tile-size or --device cpu"
        raise click.ClickException(message) from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dcpt", prog_name="dcpt")
def main() -> None:
    """Restore photographs, whatever is wrong with them."""


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


def print_facts(facts: dict[str, Any], as_json: bool) -> None:
    """Print plain data as JSON, or line by line."""
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        values = [f"{key}={entry}" for key, entry in value.items()] if isinstance(value, dict) else value
        click.echo(f"{name:18}{', '.join(map(str, values)) if isinstance(values, (list, tuple)) else values}")


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


def parse_settings(settings: tuple[str, ...]) -> dict[str, str]:
    """Split KEY=VALUE settings."""
    for setting in settings:
        if "=" not in setting:
            raise DcptError(f"expected a setting as KEY=VALUE, got {setting!r}")
    return {key: value for key, value in (setting.split("=", 1) for setting in settings)}


def parse_options(options: tuple[str, ...]) -> dict[str, Any]:
    """Split KEY=VALUE options, whose values are written as in YAML: numbers, words, true, [1, 2]."""
    import yaml

    try:
        values = {key: yaml.safe_load(value) for key, value in parse_settings(options).items()}
    except yaml.YAMLError as error:
        raise DcptError(f"expected an option as KEY=VALUE, got {' '.join(options)}: {error}") from None
    return {key: convert_number(value) for key, value in values.items()}


def convert_number(value: Any) -> Any:
    """Return the number that a word such as 1e-6, a string to YAML, stands for; anything else as it is."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


@main.command()
@click.argument("benchmark", type=click.Choice(["synthetic-10d"]))
@click.option("--data", required=True, type=PATH, help="Folder of clean pictures of at least 256x256 pixels.")
@click.option("--model", default="nafnet-small-10d", show_default=True, help="Name, folder, file or Hub repository.")
@click.option("--classify", is_flag=True, help="Evaluate the classifier of MODEL instead of the restoration.")
@click.option("--limit", type=int, help="Use only the first pictures.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@DEVICE
def evaluate(
    benchmark: str, data: Path, model: str, classify: bool, limit: int | None, as_json: bool, device: str | None
) -> None:
    """Measure restoration, or recognition, of the ten degradations made from clean pictures."""
    from tqdm import tqdm

    from dcpt.device import pick_device
    from dcpt.evaluation import classify_synthetic, evaluate_synthetic, load_clean_pictures
    from dcpt.hub import from_pretrained
    from dcpt.restoration import Restorer

    pictures = load_clean_pictures(data, limit=limit)
    if classify:
        pair = from_pretrained(model, with_head=True, device=pick_device(device))
        report = classify_synthetic(*pair, pictures, data=data.name, progress=tqdm)
    else:
        restorer = Restorer(model, device=device)
        report = evaluate_synthetic(restorer.restore_batch, pictures, data=data.name, progress=tqdm)
    if as_json:
        click.echo(json.dumps(report.as_dict(), indent=2))
    else:
        click.echo(f"{model} on {len(pictures)} pictures; {report.protocol}\n\n{report.table()}")
