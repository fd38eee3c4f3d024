"""The table of all weights, as `dcpt list` shows it."""

from __future__ import annotations

from typing import Any

from dcpt.hub import is_cached
from dcpt.published import AVERAGE
from dcpt.report import Report, read_report
from dcpt.weights import WEIGHTS, Weights

HEADER = ("NAME", "TASK", "SIZE", "HERE", "VERIFIED", "PAPER", "MEASURED")

# By whether the row names a file on the Hub, and one to fetch by hand.
AVAILABLE = {(True, False): "no", (False, True): "by hand", (False, False): "nowhere"}

LEGEND = """
TASK      what the weights were trained for: 5d and 10d are sets of degradations, cdd11 mixtures of four
HERE      bundled with the package; yes, on this machine; no, fetched from the Hub when first used; by hand,
          offered by the authors for download by hand only: see dcpt convert; nowhere, not offered at all
VERIFIED  yes: this project has loaded and measured them; no: nobody here has had the files in hand
PAPER     mean PSNR that the paper reports, by its own protocol: not to be compared with MEASURED
MEASURED  by this project, on synthetic-10d: mean gain in PSNR, or share of degradations recognised"""


def describe_weights() -> list[dict[str, Any]]:
    """Return everything known of every set of weights, as plain data."""
    return [describe_row(row) for row in WEIGHTS.values()]


def describe_row(row: Weights) -> dict[str, Any]:
    """Return everything known of one set of weights, as plain data."""
    return {
        "name": row.name,
        "description": row.description,
        "variant": row.variant,
        "options": dict(row.options),
        "recipe": row.recipe,
        "degradations": list(row.degradations),
        "parameters": row.parameters,
        "bytes": row.size,
        "bundled": row.bundled,
        "repository": None if row.bundled else row.repository,
        "file": row.file or None,
        "revision": None if row.bundled else row.revision,
        "sha256": dict(row.sha256),
        "original": vars(row.original) if row.original else None,
        "cached": is_cached(row),
        "verified": row.verified,
        "has_head": row.has_head,
        "licence": row.licence,
        "data": row.data,
        "paper": {name: {"psnr": psnr, "ssim": ssim} for name, (psnr, ssim) in row.paper.items()},
        "measured": row.measured,
    }


def format_weights() -> str:
    """Return the table and what its columns mean."""
    rows = [HEADER, *map(format_row, WEIGHTS.values())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    return "\n".join([*lines, LEGEND])


def format_row(row: Weights) -> tuple[str, ...]:
    """Return the cells of one row."""
    here = "bundled" if row.bundled else "yes" if is_cached(row) else AVAILABLE[bool(row.file), bool(row.original)]
    paper = f"{row.paper[AVERAGE][0]:.2f} dB" if row.paper else "-"
    return row.name, row.recipe, f"{row.size / 1e6:.1f} MB", here, "yes" if row.verified else "no", paper, measured(row)


def measured(row: Weights) -> str:
    """Return the one number that sums up what was measured."""
    if not row.measured:
        return "-"
    report = read_report(row.measured)
    return f"{report.mean_gain:+.2f} dB" if isinstance(report, Report) else f"{100 * report.accuracy:.1f} %"
