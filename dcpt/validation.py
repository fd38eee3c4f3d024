"""How well a network does on pictures that it is not trained on: numbers and a sheet of samples."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from dcpt.data.batches import Batch, Batches
from dcpt.files import atomic_path
from dcpt.processes import Processes

SHOWN = 8  # pictures on a sheet of samples
CAPTION_HEIGHT = 14  # pixels


@dataclass(frozen=True)
class Findings:
    """What a network makes of some pictures.

    Attributes:
        metrics: Numbers by name, one per picture that has one; the first name decides which model is best.
        columns: What to show side by side: batches of pictures, each (B, 3, H, W), in [0, 1].
        captions: What to write under each picture.
    """

    metrics: Mapping[str, Tensor]
    columns: tuple[Tensor, ...]
    captions: Sequence[str]


def validate(
    examine: Callable[[Batch], Findings], batches: Batches, count: int, processes: Processes, sheet: Path
) -> tuple[dict[str, float], dict[str, str]]:
    """Examine the first pictures of a stream.

    Args:
        examine: Looks at one batch.
        batches: The stream, of this process's members.
        count: How many pictures, rounded up to whole batches of all processes together.
        processes: Those that share the work.
        sheet: PNG to write with samples, by the main process.

    Returns:
        The mean of each number that some pictures have, as "val_..."; and the files that could not be used.

    Raises:
        DcptError: If the sheet cannot be written, or pictures cannot be made, in any process.
    """
    unusable: dict[str, str] = {}
    values: dict[str, list[float]] = defaultdict(list)
    for step in range(math.ceil(count / batches.batch_size)):
        with processes.together(), torch.inference_mode():
            batch = batches(step).to(processes.device)
            findings = examine(batch)
            if step == 0 and processes.is_main:
                draw_sheet(findings, sheet)
        unusable |= batch.skipped
        for name, numbers in findings.metrics.items():
            values[name] += numbers.tolist()
    everywhere = processes.gather([dict(values)])
    means = {}
    for name in values:
        numbers = [number for part in everywhere for number in part[name]]
        if numbers:
            means[f"val_{name}"] = math.fsum(numbers) / len(numbers)
    return means, unusable


def draw_sheet(findings: Findings, path: Path) -> None:
    """Write the first pictures as a PNG, one row each, a caption under it.

    Raises:
        OutputError: If it cannot be written.
    """
    columns = [to_pixels(column[:SHOWN]) for column in findings.columns]
    count, height, width = columns[0].shape[:3]
    sheet = Image.new("RGB", (width * len(columns), (height + CAPTION_HEIGHT) * count), "white")
    draw = ImageDraw.Draw(sheet)
    for row in range(count):
        top = row * (height + CAPTION_HEIGHT)
        for place, column in enumerate(columns):
            sheet.paste(Image.fromarray(column[row]), (place * width, top))
        draw.text((2, top + height + 1), findings.captions[row], fill="black")
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")


def to_pixels(pictures: Tensor) -> np.ndarray:
    """Return (B, 3, H, W) in [0, 1] as (B, H, W, 3), uint8."""
    return pictures.clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
