"""What a training run has done so far, from its folder: in words and as curves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dcpt.errors import InvalidData, MissingExtra
from dcpt.files import atomic_path, read_json
from dcpt.recipe import RECIPE_FILE
from dcpt.run_folder import BEST_FILE, LOG_FILE

UNPLOTTED = ("step", "skipped", "seconds_per_step")
WORDS = {"": "training", "val_": "validation", "val_input_": "validation, input"}

Rows = list[dict[str, float]]


def read_log(folder: Path) -> Rows:
    """Return the lines of a run's log; one cut short by a crash is left out.

    Raises:
        InvalidData: If the folder is not that of a run.
    """
    path = folder / LOG_FILE
    if not path.exists():
        raise InvalidData(f"expected the folder of a training run, found no {LOG_FILE} in {folder}")
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(dict(json.loads(line)))
        except (TypeError, ValueError):
            continue
    return rows


def summarise_run(folder: Path) -> dict[str, Any]:
    """Return what a run is and how far it has come, as plain data.

    Raises:
        InvalidData: If the folder is not that of a run.
    """
    rows, origin = read_log(folder), read_json(folder / RECIPE_FILE)
    stage = origin.get("stage", "")
    settings = origin.get("recipe", {}).get(stage, {})
    last = {name: value for row in rows for name, value in row.items()}
    left = settings.get("steps", 0) - last.get("step", 0)
    return {
        "stage": stage,
        "mode": settings.get("mode"),
        "backbone": origin.get("recipe", {}).get("backbone"),
        "step": last.get("step", 0),
        "steps": settings.get("steps"),
        "minutes_left": round(left * last["seconds_per_step"] / 60, 1) if "seconds_per_step" in last else None,
        "best": read_json(folder / BEST_FILE) or None,
        "checkpoints": sorted(path.name for path in (folder / "checkpoints").glob("[0-9]*.pt")),
    } | {name: value for name, value in last.items() if name not in ("step", "seconds_per_step")}


def plot_curves(folder: Path, target: Path) -> None:
    """Write the curves of a run's log as a picture, one panel per number and its counterparts in validation.

    Raises:
        InvalidData: If the folder is not that of a run, or its log is empty.
        MissingExtra: If matplotlib is not installed.
        OutputError: If the picture cannot be written.
    """
    rows = read_log(folder)
    if not rows:
        raise InvalidData(f"expected lines in {folder / LOG_FILE}, found none; wait for the first steps")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("plotting needs matplotlib; install it with: pip install 'dcpt[plot]'") from None
    curves: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for row in rows for name in row if name not in UNPLOTTED):
        curves.setdefault(name.removeprefix("val_").removeprefix("input_"), []).append(name)
    figure = Figure(figsize=(7, 2.2 * len(curves)), layout="constrained")
    panels = figure.subplots(len(curves), sharex=True, squeeze=False)[:, 0]
    for panel, (title, names) in zip(panels, curves.items(), strict=True):
        for name in names:
            known = [row for row in rows if name in row]
            dots = "." if name.startswith("val_") else ""
            label = WORDS.get(name.removesuffix(title), "")
            panel.plot([row["step"] for row in known], [row[name] for row in known], marker=dots, label=label)
        panel.set_ylabel(title.replace("_", " "))
        panel.grid(alpha=0.3)
        if len(names) > 1:
            panel.legend()
    panels[-1].set_xlabel("step")
    with atomic_path(target) as temporary:
        figure.savefig(temporary, dpi=120)
