"""A report as files: JSON and CSV for programs, Markdown for papers, a page with pictures for people."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Mapping
from html import escape
from pathlib import Path

from PIL import Image
from torch import Tensor

from dcpt.evaluation import Evaluation, Sample
from dcpt.files import atomic_path
from dcpt.report import PictureScore, as_row

SHOWN_SIDE = 360  # pixels of a picture on the page
STATES = ("input", "restored", "clean")

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse }}
td, th {{ padding: .2rem .8rem; border-bottom: 1px solid #ddd; text-align: right }}
td:first-child, th:first-child {{ text-align: left }} figure {{ margin: 1rem 0 }} img {{ max-width: 32% }}
code {{ overflow-wrap: anywhere }}
</style>
<h1>{title}</h1>
<p>{facts}</p>
{table}
<h2>Lost most, or gained least</h2>
{worst}
<h2>Gained most</h2>
{best}
</html>
"""

Paper = Mapping[str, tuple[float, float | None]]


def write_report(evaluation: Evaluation, folder: Path, *, paper: Paper | None = None) -> list[Path]:
    """Write `report.json`, `report.csv`, `report.md` and `report.html`; return their paths.

    Args:
        evaluation: What came out.
        folder: Where to write; made if need be.
        paper: What a paper reports, by label, to be set beside the numbers.

    Raises:
        OutputError: If they cannot be written.
    """
    report = evaluation.report
    table = report.table(paper)
    head = f"# {report.model or 'A model'} on {report.data}\n\n{report.protocol}; digest `{report.digest[:16]}`\n\n"
    contents = {
        "report.json": json.dumps(report.as_dict(pictures=True), indent=1) + "\n",
        "report.csv": as_csv(report.pictures),
        "report.md": f"{head}{table}\n",
        "report.html": as_page(evaluation, table),
    }
    paths = []
    for name, content in contents.items():
        with atomic_path(folder / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
        paths.append(folder / name)
    return paths


def as_csv(pictures: tuple[PictureScore, ...]) -> str:
    """Return one line per picture, after one with the names of the columns."""
    text = io.StringIO(newline="")
    rows = [as_row(picture) for picture in pictures]
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_page(evaluation: Evaluation, table: str) -> str:
    """Return a page that needs no other file."""
    report = evaluation.report
    seconds = sum(picture.seconds for picture in report.pictures)
    facts = f"{escape(report.protocol)}; {len(report.pictures)} pictures in {seconds:.0f} seconds; digest "
    facts += f"<code>{report.digest}</code>"
    worst, best = ("\n".join(map(as_figure, samples)) for samples in (evaluation.worst, evaluation.best))
    title = escape(f"{report.model or 'A model'} on {report.data}")
    return PAGE.format(title=title, facts=facts, table=as_table(table), worst=worst, best=best)


def as_table(markdown: str) -> str:
    """Return a Markdown table as HTML."""
    rows = [line.strip("| ").split("|") for line in markdown.splitlines()]
    lines = []
    for number, row in enumerate(rows):
        if number != 1:  # the line of dashes
            kind = "th" if number == 0 else "td"
            lines.append("".join(f"<{kind}>{escape(cell.strip(' *'))}</{kind}>" for cell in row))
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def as_figure(sample: Sample) -> str:
    """Return the three states of a picture side by side."""
    images = "".join(
        f'<img alt="{state}" title="{state}" src="data:image/jpeg;base64,{as_jpeg(picture)}"> '
        for state, picture in zip(STATES, sample.states, strict=True)
    )
    return f"<figure>{images}<figcaption>{escape(sample.name)}: {sample.gain:+.2f} dB</figcaption></figure>"


def as_jpeg(picture: Tensor) -> str:
    """Return a picture, (3, H, W) in [0, 1], as the text of a small JPEG file."""
    image = Image.fromarray((picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=90)
    return base64.b64encode(buffer.getvalue()).decode()
