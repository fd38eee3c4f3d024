"""The numbers that papers report, as data: `paper_tables.json`, read from the published tables."""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any

from dcpt.registry import unknown_name

Numbers = dict[str, tuple[float, float | None]]

AVERAGE = "average"
RENAMED = {"noise25": "noise"}  # columns that a benchmark calls otherwise


@functools.lru_cache(maxsize=1)
def paper_tables() -> dict[str, Any]:
    """Return all tables, as they lie in the file."""
    return json.loads((resources.files("dcpt") / "paper_tables.json").read_text(encoding="utf-8"))


def published_numbers(table: str, row: str) -> Numbers:
    """Return PSNR in dB and SSIM (None where the paper has none) by column of one row.

    Args:
        table: "5d", "10d", "cdd11" or "later_systems_5d_average".
        row: Method, such as "DCPT-NAFNet".

    Returns:
        One entry per column, the mean over them as "average" among them.

    Raises:
        KeyError: If there is no such table or row.
    """
    data = paper_tables()[table]
    if "columns" not in data:
        psnr, ssim = data[row]
        return {AVERAGE: (psnr, ssim)}
    if "rows" in data:
        return dict(zip(data["columns"], map(tuple, data["rows"][row]), strict=True))
    psnr = data["psnr"][row]
    ssim = data["ssim"].get(row, [None] * len(psnr))
    numbers: Numbers = dict(zip(data["columns"], zip(psnr, ssim, strict=True), strict=True))
    if AVERAGE not in numbers:
        mean_ssim = None if None in ssim else sum(ssim) / len(ssim)
        numbers[AVERAGE] = (sum(psnr) / len(psnr), mean_ssim)
    return numbers


def paper_columns(table: str, row: str) -> Numbers:
    """Return a row of a paper's table by the labels of the benchmark of the same name.

    Raises:
        UnknownName: If the benchmark has no table, or the table no such row.
    """
    if table not in ("5d", "10d", "cdd11"):
        raise unknown_name("table", table, ["5d", "10d", "cdd11"])
    data = paper_tables()[table]
    rows = data.get("rows", data.get("psnr"))
    if row not in rows:
        raise unknown_name(f"row of table {table}", row, rows)
    return {RENAMED.get(column, column): numbers for column, numbers in published_numbers(table, row).items()}
