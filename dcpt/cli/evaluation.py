"""Commands for numbers: benchmarks of restoration and recognition, and what features know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from dcpt.cli.base import DEVICE, OPTION, PATH, main, parse_options
from dcpt.errors import DcptError


@main.command()
@click.argument("benchmark")
@click.option("--data", type=PATH, help="Folder of the test sets, or of the clean pictures of a synthetic benchmark.")
@click.option("--model", default="nafnet-small-10d", show_default=True, help="Name, folder, file or Hub repository.")
@OPTION
@click.option("--baseline", help="Measure none, median or autocontrast in place of a model.")
@click.option(
    "--protocol", type=click.Choice(["dcpt", "airnet"]), default="dcpt", show_default=True,
    help="How pictures are cut, noise is made and results are measured.",
)  # fmt: skip
@click.option(
    "--metric", "metrics", multiple=True, metavar="NAME",
    help="Measure also this metric of pyiqa, such as lpips or niqe; may be repeated.",
)  # fmt: skip
@click.option("--paper", metavar="ROW", help="Row of the paper's table to set beside, such as DCPT-NAFNet.")
@click.option("--classify", is_flag=True, help="Evaluate the classifier of MODEL instead of the restoration.")
@click.option("--limit", type=click.IntRange(1), help="Use only the first pictures.")
@click.option("-o", "--output", type=PATH, help="Folder for report.json, .csv, .md and .html.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@DEVICE
def evaluate(
    benchmark: str, data: Path | None, model: str, limit: int | None, as_json: bool, classify: bool, **options: Any
) -> None:
    """Measure a model on BENCHMARK.

    BENCHMARK is 5d, 10d or cdd11, the tables of the papers, on the published test sets below --data;
    synthetic-10d, synthetic-5d or synthetic-cdd11, made from the clean pictures below --data; or a folder
    with a folder per degradation.
    """
    if classify:
        report = classify_benchmark(benchmark, data, model, limit, device=options["device"])
        text = f"{model}; {report.protocol}\n\n{report.table()}"
    else:
        report, text = restore_benchmark(benchmark, data, model, limit, **options)
    click.echo(json.dumps(report.as_dict(), indent=2) if as_json else text)


def restore_benchmark(
    name: str,
    data: Path | None,
    model: str,
    limit: int | None,
    *,
    options: tuple[str, ...],
    baseline: str | None,
    protocol: str,
    metrics: tuple[str, ...],
    paper: str | None,
    output: Path | None,
    device: str | None,
) -> tuple[Any, str]:
    """Measure restoration; return the report and what to print."""
    from tqdm import tqdm

    from dcpt.cases import load_benchmark
    from dcpt.checkpoint import hash_weights
    from dcpt.evaluation import evaluate as measure
    from dcpt.evaluation import find_baseline
    from dcpt.extra_metrics import create_metrics
    from dcpt.hub import from_pretrained
    from dcpt.published import paper_columns
    from dcpt.report_files import write_report
    from dcpt.restoration import Restorer

    benchmark = load_benchmark(name, data, protocol=protocol, limit=limit)
    beside = paper_columns(name, paper) if paper else None
    extra = create_metrics(metrics, device=device) if metrics else {}
    if baseline:
        restore, weights_hash, model = find_baseline(baseline), baseline, f"baseline {baseline}"
    else:
        backbone = from_pretrained(model, **parse_options(options))
        restore, weights_hash = Restorer(backbone, device=device).restore_batch, hash_weights(backbone)
    evaluation = measure(restore, benchmark, model=model, weights_hash=weights_hash, metrics=extra, progress=tqdm)
    report = evaluation.report
    if output:
        write_report(evaluation, output, paper=beside)
    return report, f"{model} on {report.images} pictures; {report.protocol}\n\n{report.table(beside)}"


def classify_benchmark(name: str, data: Path | None, model: str, limit: int | None, *, device: str | None) -> Any:
    """Measure recognition; return the report."""
    from tqdm import tqdm

    from dcpt.cases import load_clean_pictures
    from dcpt.device import pick_device
    from dcpt.evaluation import classify_synthetic
    from dcpt.hub import from_pretrained

    if name != "synthetic-10d" or data is None:
        raise DcptError("expected synthetic-10d and --data, clean pictures, to evaluate a classifier")
    pictures = load_clean_pictures(data, limit=limit)
    pair = from_pretrained(model, with_head=True, device=pick_device(device))
    return classify_synthetic(*pair, pictures, data=data.name, progress=tqdm)


@main.command()
@click.option("--model", help="Trained weights: a name, folder, file or Hub repository.")
@OPTION
@click.option("--random", "variant", metavar="BACKBONE", help="A backbone with random weights.")
@click.option("--run", "folder", type=PATH, help="A training run: all its checkpoints, and its random weights.")
@click.option("--data", required=True, type=PATH, help="Folder of clean photographs.")
@click.option("-o", "--output", type=PATH, help="Folder for the numbers and figures.")
@click.option("--degradations", metavar="A,B", help="What to tell apart; default: the five of the paper.")
@click.option("--growing", is_flag=True, help="Measure the curve from three degradations to all, too.")
@click.option("--crops", type=click.IntRange(10), default=100, show_default=True, help="Of each degradation.")
@click.option("--size", type=click.IntRange(1), default=128, show_default=True, help="Side of a crop in pixels.")
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True, help="Splits to average over.")
@click.option("--grid", type=click.IntRange(1), default=1, show_default=True, help="Cells per side to average over.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@DEVICE
def probe(
    model: str | None, options: tuple[str, ...], variant: str | None, folder: Path | None, data: Path,
    output: Path | None, degradations: str | None, as_json: bool, **settings: Any,
) -> None:  # fmt: skip
    """Measure how well the features of a network tell degradations apart."""
    if sum(given is not None for given in (model, variant, folder)) != 1:
        raise DcptError("expected one of --model, --random and --run")
    from tqdm import tqdm

    from dcpt.probing import PAPER_TYPES, find_checkpoints, find_trained, find_untrained, probe

    if model:
        subjects = find_trained(model, **parse_options(options))
    else:
        subjects = find_untrained(variant) if variant else find_checkpoints(folder)
    names = tuple(degradations.split(",")) if degradations else PAPER_TYPES
    study = probe(subjects, data, degradations=names, progress=tqdm, **settings)
    click.echo(json.dumps(study.as_dict(), indent=2) if as_json else study.table())
    if output:
        study.save(output)
