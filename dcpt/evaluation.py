"""How well a model restores and recognises: the frozen synthetic benchmark.

The benchmark `synthetic-10d` needs nothing but a folder of clean pictures: centre crops of 256
pixels, each degraded at a fixed seed, severities spread evenly over [0, 1] from picture to
picture. Input and output are rounded to 8 bits; PSNR and SSIM follow the `dcpt` protocol. Any
change to the degradations changes the benchmark, so reports carry its version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dcpt.backbones import Backbone
from dcpt.data.crops import find_photographs
from dcpt.degradations import apply_degradations, list_degradations
from dcpt.errors import InvalidData
from dcpt.heads import DegradationClassifier
from dcpt.image import read_picture
from dcpt.metrics import psnr, ssim
from dcpt.recipe import CLEAN
from dcpt.report import NOISE_25, Confusion, Report, Score

PROTOCOL = "synthetic-10d, version 1: 256x256 centre crops, 8-bit input and output, RGB"
_GOLDEN_RATIO = 0.6180339887


def load_clean_pictures(folder: Path, *, size: int = 256, limit: int | None = None) -> list[Tensor]:
    """Read the centre crops of all pictures below a folder, each (1, 3, size, size) in [0, 1].

    Raises:
        InvalidData: If there is none, or one is smaller than the crop.
        InvalidImage: If one cannot be read.
    """
    crops = []
    for path in find_photographs([folder])[:limit]:
        pixels, _ = read_picture(path)
        height, width = pixels.shape[-2:]
        if min(height, width) < size:
            raise InvalidData(f"expected pictures of at least {size}x{size}, got {width}x{height} in {path}")
        top, left = (height - size) // 2, (width - size) // 2
        crops.append(pixels[..., top : top + size, left : left + size])
    if not crops:
        raise InvalidData(f"expected clean pictures in {folder}, found none")
    return crops


def degrade_frozen(gt: Tensor, name: str, index: int) -> Tensor:
    """Degrade the benchmark's picture number `index`, always in the same way; in whole grey levels."""
    if name == CLEAN:
        return to_8bit(gt)
    severity = 24 / 49 if name == NOISE_25 else (index + 1) * _GOLDEN_RATIO % 1
    degradation = "noise" if name == NOISE_25 else name
    seed = 1000 * list_degradations().index(degradation) + index
    generator = torch.Generator(gt.device).manual_seed(seed)
    return to_8bit(apply_degradations(gt, {degradation: severity}, generator))


def to_8bit(x: Tensor) -> Tensor:
    """Round to whole grey levels of 255, as a file does."""
    return (x.clamp(0, 1) * 255).round() / 255


def evaluate_synthetic(
    restore: Callable[[Tensor], Tensor],
    pictures: Sequence[Tensor],
    *,
    data: str = "",
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Report:
    """Measure a restorer on the ten degradations, on noise of sigma 25 and on clean pictures.

    Args:
        restore: Maps (1, 3, H, W) in [0, 1] to the same, such as `Restorer(...).restore_batch`.
        pictures: Clean pictures from `load_clean_pictures`.
        data: Name of the set they are, for the report.
        progress: Wraps the loop over degradations, such as `tqdm`.
    """
    scores = []
    for name in progress([*list_degradations(), NOISE_25, CLEAN]):
        rows = []
        for index, gt in enumerate(pictures):
            lq = degrade_frozen(gt, name, index)
            restored = to_8bit(restore(lq))
            rows.append([psnr(lq, gt), psnr(restored, gt), ssim(lq, gt), ssim(restored, gt)])
        scores.append(Score(name, *torch.tensor(rows, dtype=torch.float64).mean(0).tolist()))
    return Report(PROTOCOL, data, len(pictures), tuple(scores))


@torch.inference_mode()
def classify_synthetic(
    backbone: Backbone,
    head: DegradationClassifier,
    pictures: Sequence[Tensor],
    *,
    data: str = "",
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Confusion:
    """Count which degradation of the benchmark a pre-trained pair takes for which.

    Args:
        backbone: Gives the features.
        head: Gives the logits; its `labels` name the classes.
        pictures: Clean pictures from `load_clean_pictures`.
        data: Name of the set they are, for the report.
        progress: Wraps the loop over classes, such as `tqdm`.
    """
    device = next(backbone.parameters()).device
    counts = [[0] * head.num_classes for _ in head.labels]
    for true, name in enumerate(progress(head.labels)):
        for index, gt in enumerate(pictures):
            lq = degrade_frozen(gt, name, index).to(device)
            counts[true][head(backbone(lq, hook=True)).argmax().item()] += 1
    return Confusion(PROTOCOL, data, head.labels, counts)
