"""How well a model restores and recognises: the frozen synthetic benchmark.

The benchmark `synthetic-10d` needs nothing but a folder of clean pictures: centre crops of 256
pixels, each degraded at a fixed seed, severities spread evenly over [0, 1] from picture to
picture. Input and output are rounded to 8 bits; PSNR and SSIM follow the `dcpt` protocol. Any
change to the degradations changes the benchmark, so reports carry its version.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
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

PROTOCOL = "synthetic-10d, version 1: 256x256 centre crops, 8-bit input and output, RGB"
NOISE_25 = "noise (sigma 25)"
_GOLDEN_RATIO = 0.6180339887


@dataclass(frozen=True)
class Score:
    """Mean quality over the pictures of one degradation, before and after.

    Attributes:
        name: Degradation.
        psnr_lq: Mean PSNR of the degraded pictures in dB; infinite for clean ones.
        psnr: Mean PSNR of the restored pictures in dB.
        ssim_lq: Mean SSIM of the degraded pictures.
        ssim: Mean SSIM of the restored pictures.
    """

    name: str
    psnr_lq: float
    psnr: float
    ssim_lq: float
    ssim: float

    @property
    def gain(self) -> float:
        """PSNR gained in dB."""
        return self.psnr - self.psnr_lq


@dataclass(frozen=True)
class Report:
    """Numbers together with the protocol that made them.

    Attributes:
        protocol: What determines the numbers besides model and pictures.
        images: Number of pictures.
        scores: One row per degradation, then noise of sigma 25 and clean pictures.
    """

    protocol: str
    images: int
    scores: tuple[Score, ...]

    @property
    def mean_gain(self) -> float:
        """Mean PSNR gain in dB over the degradations (neither sigma 25 nor clean counts)."""
        gains = [score.gain for score in self.scores if score.name not in (NOISE_25, CLEAN)]
        return sum(gains) / len(gains)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; what is infinite, as the PSNR of clean pictures, is None."""
        rows = [asdict(score) | {"gain": score.gain} for score in self.scores]
        rows = [{k: None if v in (math.inf, -math.inf) else v for k, v in row.items()} for row in rows]
        return asdict(self) | {"scores": rows, "mean_gain": self.mean_gain}

    def table(self) -> str:
        """Return the scores as a Markdown table."""
        lines = ["| degradation | PSNR in | PSNR out | gain | SSIM in | SSIM out |", "|---|--:|--:|--:|--:|--:|"]
        lines += [
            f"| {s.name} | {s.psnr_lq:.2f} | {s.psnr:.2f} | {s.gain:+.2f} | {s.ssim_lq:.3f} | {s.ssim:.3f} |"
            if math.isfinite(s.gain)
            else f"| {s.name} | - | {s.psnr:.2f} | - | {s.ssim_lq:.3f} | {s.ssim:.3f} |"
            for s in self.scores
        ]
        return "\n".join([*lines, f"| **mean of ten** | | | **{self.mean_gain:+.2f}** | | |"])


@dataclass(frozen=True)
class Confusion:
    """Which degradation was taken for which.

    Attributes:
        protocol: What determines the numbers besides model and pictures.
        labels: Class names.
        counts: Pictures by true class (row) and answer (column).
    """

    protocol: str
    labels: tuple[str, ...]
    counts: list[list[int]] = field(repr=False)

    @property
    def accuracy(self) -> float:
        """Share of right answers over the ten degradations, in [0, 1]; clean is not counted."""
        rows = [(i, row) for i, (label, row) in enumerate(zip(self.labels, self.counts)) if label != CLEAN]
        return sum(row[i] for i, row in rows) / sum(sum(row) for _, row in rows)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self) | {"accuracy": self.accuracy}

    def table(self) -> str:
        """Return the counts as a Markdown table."""
        lines = ["| true \\ answer | " + " | ".join(self.labels) + " |", "|---" * (len(self.labels) + 1) + "|"]
        lines += [f"| {label} | " + " | ".join(map(str, row)) + " |" for label, row in zip(self.labels, self.counts)]
        return "\n".join([*lines, "", f"accuracy over the ten degradations: {100 * self.accuracy:.1f} %"])


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
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Report:
    """Measure a restorer on the ten degradations, on noise of sigma 25 and on clean pictures.

    Args:
        restore: Maps (1, 3, H, W) in [0, 1] to the same, such as `Restorer(...).restore_batch`.
        pictures: Clean pictures from `load_clean_pictures`.
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
    return Report(PROTOCOL, len(pictures), tuple(scores))


@torch.inference_mode()
def classify_synthetic(
    backbone: Backbone,
    head: DegradationClassifier,
    pictures: Sequence[Tensor],
    *,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Confusion:
    """Count which degradation of the benchmark a pre-trained pair takes for which.

    Args:
        backbone: Gives the features.
        head: Gives the logits; its `labels` name the classes.
        pictures: Clean pictures from `load_clean_pictures`.
        progress: Wraps the loop over classes, such as `tqdm`.
    """
    device = next(backbone.parameters()).device
    counts = [[0] * head.num_classes for _ in head.labels]
    for true, name in enumerate(progress(head.labels)):
        for index, gt in enumerate(pictures):
            lq = degrade_frozen(gt, name, index).to(device)
            counts[true][head(backbone(lq, hook=True)).argmax().item()] += 1
    return Confusion(PROTOCOL, head.labels, counts)
