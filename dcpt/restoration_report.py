"""What a run did, for programs and for people: report.json, and a page with before, after and what changed."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from importlib.metadata import version
from typing import Any
from urllib.parse import quote

import numpy as np
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dcpt.errors import OutputError
from dcpt.restoration_journal import DONE, FAILED, UNTOUCHED, OutputFolder, Record, printable
from dcpt.restoration_plan import REPORT_DATA, REPORT_FILES, REPORT_PAGE

MOST_PREVIEWS = 500  # pictures; more make the page slow and the folder large
LONGER_SIDE = 480  # pixels of a preview
VIEWS = ("before", "after", "change")
BRIGHTEST_CHANGE = 0.15  # of the range of values; the same on all maps, so that they compare

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Restored pictures</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
figure {{ margin: 2rem 0; border-top: 1px solid #ddd; overflow-wrap: anywhere }}
.views {{ display: flex; gap: 1rem; flex-wrap: wrap }} .views > * {{ width: 30rem; max-width: 100% }}
.pair {{ position: relative; --at: 50% }} img {{ display: block; width: 100%; height: auto }}
.after {{ position: absolute; top: 0; clip-path: inset(0 0 0 var(--at)) }} input {{ width: 100%; margin: .5rem 0 }}
</style>
<h1>Restored pictures</h1>
<p>{facts}</p>
<p>Left of the slider is the picture as it was, right of it the restored one. Beside them is what changed:
black: nothing; white: {brightest:.0%} or more. Pictures found clean, or free of what was to be removed,
are left untouched.</p>
{failures}
{figures}
</html>
"""


def write_report(folder: OutputFolder, records: Sequence[Record], *, model: str, settings: Mapping[str, Any]) -> None:
    """Write `report.json` and `report.html`, which shows the previews that are there.

    Args:
        folder: Where to write; locked.
        records: What became of the pictures.
        model: What to call the model.
        settings: All that determines the results.

    Raises:
        OutputError: If they cannot be written.
    """
    counts = Counter(record.status for record in records)
    summary = {
        "dcpt": version("dcpt"),
        "model": model,
        "settings": settings,
        "counts": {status: counts[status] for status in (DONE, UNTOUCHED, FAILED)},
        "earlier": sum(record.earlier for record in records),
        "seconds": round(sum(record.seconds for record in records), 3),
    }
    data = json.dumps(summary | {"pictures": [asdict(record) for record in records]}, indent=1)
    try:
        folder.write(folder.path / REPORT_DATA, f"{data}\n".encode("ascii"))
        folder.write(folder.path / REPORT_PAGE, as_page(folder, records, summary).encode("utf-8"))
    except OSError as error:
        raise OutputError(f"cannot write the report to {folder.path}: {error.strerror or error}") from None


def as_page(folder: OutputFolder, records: Sequence[Record], summary: Mapping[str, Any]) -> str:
    """Return a page that shows the previews in the folder beside it and needs nothing else."""
    counts = summary["counts"]
    facts = f"{counts[DONE]} restored, {counts[UNTOUCHED]} left untouched, "
    facts += f"{counts[FAILED]} failed; {summary['seconds']:.0f} seconds; {summary['model']} (dcpt {summary['dcpt']})."
    if len(records) > MOST_PREVIEWS:
        facts += f" The first {MOST_PREVIEWS} are shown, the others only named."
    failed = [record for record in records if record.status == FAILED]
    lines = [f"<li>{as_text(record.source)}: {as_text(record.reason)}</li>" for record in failed]
    failures = "\n".join(["<h2>Failed</h2>\n<ul>", *lines, "</ul>"]) if failed else ""
    figures = "\n".join(as_figure(folder, record) for record in records if record.status != FAILED)
    return PAGE.format(facts=as_text(facts), brightest=BRIGHTEST_CHANGE, failures=failures, figures=figures)


def as_figure(folder: OutputFolder, record: Record) -> str:
    """Return a picture's part of the page."""
    words = [f'<a href="{as_link(record.target)}">{as_text(record.target)}</a>']
    if record.status == UNTOUCHED:
        words.append("left untouched")
    if record.diagnosis:
        words.append(as_text(record.diagnosis["summary"]))
    words.append(f"{record.seconds:.2f} s")
    caption = f"<figcaption>{'; '.join(words)}</figcaption>"
    names = {view: preview_name(record.target, view) for view in VIEWS}
    if not has_previews(folder, record.target):
        return f"<figure>{caption}</figure>"
    # With their sizes known, pictures out of sight are not loaded.
    size = f'width="{record.width}" height="{record.height}" loading="lazy"'
    before, after, change = (
        f'<img class="{view}" alt="{view}" src="{as_link(name)}" {size}>' for view, name in names.items()
    )
    if record.status == UNTOUCHED:
        return f'<figure>{caption}<div class="views"><div>{before}</div></div></figure>'
    slider = '<input type="range" value="50" aria-label="before and after" '
    slider += "oninput=\"this.parentNode.style.setProperty('--at', this.value + '%')\">"
    return (
        f'<figure>{caption}<div class="views"><div class="pair">{before}{after}{slider}</div>'
        f"<div>{change}</div></div></figure>"
    )


def as_text(text: str) -> str:
    """Return text, on one line and with its odd characters written out, as HTML."""
    return escape(printable(text))


def as_link(path: str) -> str:
    """Return a path relative to the page, whatever its bytes, as a link."""
    return quote(os.fsencode(path.replace(os.sep, "/")))


def preview_name(target: str, view: str) -> str:
    """Return the path of a preview, relative to the output folder."""
    return f"{REPORT_FILES}/{hashlib.sha256(os.fsencode(target)).hexdigest()[:16]}-{view}.jpg"


def has_previews(folder: OutputFolder, target: str) -> bool:
    """Whether there are previews of a result, given by its path relative to the output folder."""
    return all((folder.path / preview_name(target, view)).exists() for view in VIEWS)


def write_previews(folder: OutputFolder, target: str, before: Tensor, after: Tensor) -> None:
    """Write the previews that `make_previews` makes.

    Raises:
        OSError: If they cannot be written.
    """
    for path, data in make_previews(target, before, after).items():
        folder.write(folder.path / path, data)


def make_previews(target: str, before: Tensor, after: Tensor) -> dict[str, bytes]:
    """Make small pictures of before, after and the change, as JPEG files by their paths.

    Args:
        target: Path of the result, relative to the output folder.
        before: The picture as it was, (1, 3, H, W), in [0, 1].
        after: The restored one, of the same shape.
    """
    # Plane by plane: a large picture is not held a third time.
    change = sum((after[:, c : c + 1] - before[:, c : c + 1]).abs_() for c in range(3)) / 3
    views = (shrink(before), shrink(after), as_heat(shrink(change)))
    return {preview_name(target, view): as_jpeg(picture) for view, picture in zip(VIEWS, views, strict=True)}


def shrink(picture: Tensor) -> np.ndarray:
    """Average (1, C, H, W) down to at most `LONGER_SIDE` pixels; return (h, w, C)."""
    height, width = picture.shape[-2:]
    scale = min(1.0, LONGER_SIDE / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return F.adaptive_avg_pool2d(picture, size)[0].permute(1, 2, 0).cpu().numpy()


def as_heat(change: np.ndarray) -> np.ndarray:
    """Colour changes, (h, w, 1): from black over red and yellow to white."""
    return np.clip(3 * change / BRIGHTEST_CHANGE - np.arange(3), 0, 1)


def as_jpeg(picture: np.ndarray) -> bytes:
    """Encode (h, w, 3), values in [0, 1]."""
    buffer = io.BytesIO()
    Image.fromarray((picture * 255).round().astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
