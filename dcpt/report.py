"""Measured numbers together with the protocol that made them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from dcpt.recipe import CLEAN

EVALUATION_FILE = "evaluation.json"  # what `dcpt evaluate --json` printed, beside the weights it is about
NOISE_25 = "noise (sigma 25)"


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
        data: Name of the set of pictures.
        images: Number of pictures.
        scores: One row per degradation, then noise of sigma 25 and clean pictures.
    """

    protocol: str
    data: str
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
        data: Name of the set of pictures.
        labels: Class names.
        counts: Pictures by true class (row) and answer (column).
    """

    protocol: str
    data: str
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


def read_report(data: Mapping[str, Any]) -> Report | Confusion:
    """Read back what `as_dict` of a report or confusion gave.

    Raises:
        KeyError, TypeError, ValueError: If it is of neither.
    """
    if "counts" in data:
        return Confusion(data["protocol"], data["data"], tuple(data["labels"]), data["counts"])
    names = ("name", "psnr_lq", "psnr", "ssim_lq", "ssim")
    rows = [[math.inf if row[name] is None else row[name] for name in names] for row in data["scores"]]
    return Report(data["protocol"], data["data"], data["images"], tuple(Score(*row) for row in rows))
