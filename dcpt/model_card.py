"""The README of a model repository, written from the files beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from dcpt.checkpoint import CONFIG_FILE
from dcpt.errors import InvalidData
from dcpt.files import read_json
from dcpt.published import AVERAGE
from dcpt.recipe import CLEAN, RECIPE_FILE
from dcpt.report import EVALUATION_FILE, Confusion, Report, read_report
from dcpt.weights import WEIGHTS

CITATION = """```bibtex
@inproceedings{hu2025universal,
  title={Universal Image Restoration Pre-training via Degradation Classification},
  author={Hu, JiaKui and Jin, Lujia and Yao, Zhengjian and Lu, Yanye},
  booktitle={The Thirteenth International Conference on Learning Representations},
  year={2025},
  url={https://openreview.net/forum?id=PacBhLzeGO}
}
```"""

SUCCESSOR = "\n\nThese weights are of its successor, MaskDCPT (arXiv 2510.13282)."

UNKNOWN = "not stated"
LICENCES = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0")


def write_card(folder: Path, name: str) -> str:
    """Return the model card of a model folder, Markdown with metadata in front.

    Args:
        folder: Has `config.json`, and possibly `recipe.json` and `evaluation.json`, what `dcpt
            evaluate --json` printed: what the card says comes from these.
        name: Repository it is for.

    Raises:
        InvalidData: If one of them is not what it should be.
    """
    config, recipe = (read_json(folder / file) for file in (CONFIG_FILE, RECIPE_FILE))
    report = read_measured(folder)
    try:
        return compose(name, config, recipe, report)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise InvalidData(
            f"expected {CONFIG_FILE} and {RECIPE_FILE} in {folder} as dcpt writes them: {error}"
        ) from None


def compose(name: str, config: Mapping[str, Any], recipe: Mapping[str, Any], report: Report | Confusion | None) -> str:
    """Put the card together."""
    recipe = recipe or {key: config[key] for key in ("stage", "recipe", "step", "data_manifest") if key in config}
    labels = tuple(recipe.get("recipe", {}).get("labels") or config.get("head", {}).get("labels") or ())
    names = [label for label in labels if label != CLEAN] or list(config.get("degradations", ()))
    sections = {
        "": describe(config, names),
        "How to use it": describe_use(name, has_head="head" in config),
        "Measured": describe_numbers(report),
        "Published": describe_published(config),
        "Known weaknesses": describe_weaknesses(report, own=bool(recipe)),
        "Training": describe_training(recipe, config),
        "Licences": f"Weights: {config.get('licence', UNKNOWN)}. Trained on: {config.get('data', UNKNOWN)}.",
        "Citation": CITATION + (SUCCESSOR if str(config.get("weights", "")).startswith("maskdcpt") else ""),
    }
    body = "\n".join(f"## {title}\n\n{text}\n" if title else f"{text}\n" for title, text in sections.items() if text)
    return f"---\n{write_metadata(name, config, names, report)}\n---\n\n# {name}\n\n{body}"


def read_measured(folder: Path) -> Report | Confusion | None:
    """Return what was measured of the weights in a folder, or None if nothing was.

    Raises:
        InvalidData: If the file is not what `dcpt evaluate --json` prints.
    """
    data = read_json(folder / EVALUATION_FILE)
    try:
        report = read_report(data) if data else None
        describe_numbers(report)
        return report
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        raise InvalidData(f"expected what `dcpt evaluate --json` prints in {folder / EVALUATION_FILE}") from None


def describe(config: Mapping[str, Any], degradations: list[str]) -> str:
    """Say what the model is."""
    what = ", ".join(name.replace("_", " ") for name in degradations) or "degradations that its files do not list"
    purpose = "recognises" if "head" in config else "removes"
    origin = config.get("converted_from")
    text = (
        f"A `{config['variant']}` that {purpose} {what}, without being told which; made for "
        "[dcpt](https://github.com/dcpt-ir/dcpt), all-in-one image restoration by degradation "
        "classification pre-training."
    )
    return f"{text}\n\nConverted from `{origin['file']}` (sha256 `{origin['sha256']}`)." if origin else text


def describe_use(name: str, *, has_head: bool) -> str:
    """Show the model in use, in three lines."""
    if has_head:
        call = f'backbone, head = dcpt.from_pretrained("{name}", with_head=True)'
        last = "logits = head(backbone(lq, hook=True))    # lq: (B, 3, H, W), RGB in [0, 1]; classes: head.labels"
    else:
        call = f'restorer = dcpt.Restorer(dcpt.from_pretrained("{name}"))'
        last = 'restorer.restore("photo.jpg").save("restored.jpg")'
    code = f"```python\nimport dcpt\n{call}\n{last}\n```"
    return f"{code}\n\nThe weights are plain safetensors, the options are in `config.json`."


def describe_numbers(report: Report | Confusion | None) -> str:
    """Show what was measured, with its protocol."""
    if report is None:
        return "Nothing yet."
    return f"On {report.data or 'unnamed pictures'}; protocol: {report.protocol}.\n\n{report.table()}"


def describe_published(config: Mapping[str, Any]) -> str:
    """Say what the paper reports, of weights that the table knows."""
    row = WEIGHTS[config["weights"]] if config.get("weights") in WEIGHTS else None
    if row is None or not row.paper:
        return ""
    psnr, ssim = row.paper[AVERAGE]
    numbers = f"{psnr:.2f} dB" + (f" / {ssim:.3f}" if ssim else "")
    return f"The authors report {numbers} (mean PSNR / SSIM) by their own protocol; not verified with these files."


def describe_weaknesses(report: Report | Confusion | None, *, own: bool) -> str:
    """Say what the numbers say against the model, and what no number says."""
    lines = ["Trained on synthesised degradations: real photographs are damaged in more ways."] if own else []
    if report is None:
        lines.append("Nobody has measured these files with dcpt.")
    if isinstance(report, Report):
        weak = [s for s in report.scores if math.isfinite(s.gain) and s.gain < 0.5]
        lines += [f"{s.name.replace('_', ' ')}: {s.gain:+.2f} dB, hardly better than the input." for s in weak]
    if isinstance(report, Confusion):
        shares = [(label, row[i] / sum(row)) for i, (label, row) in enumerate(zip(report.labels, report.counts))]
        lines += [f"{n.replace('_', ' ')}: {100 * share:.0f} % recognised." for n, share in shares if share < 0.8]
    return "\n".join(f"- {line}" for line in lines)


def describe_training(recipe: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Summarise the recipe."""
    if not recipe:
        return f"Recipe: {config.get('trained_for', UNKNOWN)}."
    facts = dict(recipe.get("recipe", {}).get(recipe.get("stage", ""), {}))
    facts |= {key: recipe[key] for key in ("stage", "seed", "commit", "data_manifest") if key in recipe}
    facts["steps"] = recipe.get("steps") or recipe.get("step") or facts.get("steps")
    rows = [f"| {key} | {value} |" for key, value in sorted(facts.items())]
    return "\n".join(["| setting | value |", "|---|---|", *rows])


def write_metadata(
    name: str, config: Mapping[str, Any], degradations: list[str], report: Report | Confusion | None
) -> str:
    """Return the metadata block that the Hub reads, without its fences."""
    data = ModelCardData(
        library_name="dcpt",
        **describe_licence(config.get("licence", UNKNOWN)),
        pipeline_tag="image-classification" if "head" in config else "image-to-image",
        tags=["image-restoration", "all-in-one", "dcpt", config["variant"], *degradations],
        metrics=["accuracy"] if isinstance(report, Confusion) else ["psnr", "ssim"] if report else None,
        model_name=name,
        eval_results=list(results(report)) if report else None,
    )
    return data.to_yaml()


def describe_licence(licence: str) -> dict[str, str]:
    """Return a licence as the Hub's metadata has it."""
    return (
        {"license": licence.lower()} if licence.lower() in LICENCES else {"license": "other", "license_name": licence}
    )


def results(report: Report | Confusion) -> Iterator[EvalResult]:
    """Give the numbers as the Hub lists them, a configuration of the data set per degradation."""
    about = {"dataset_type": report.data or "unnamed", "dataset_name": report.data or "unnamed"}
    about["dataset_args"] = {"protocol": report.protocol}
    if isinstance(report, Confusion):
        accuracy = round(report.accuracy, 4)
        yield EvalResult("image-classification", **about, metric_type="accuracy", metric_value=accuracy)
        return
    for score in report.scores:
        about["dataset_config"] = score.name
        for metric in ("psnr", "ssim"):
            value = round(getattr(score, metric), 4)
            yield EvalResult("image-to-image", **about, metric_type=metric, metric_value=value)
