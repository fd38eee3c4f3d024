"""Measured numbers together with the protocol that made them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from dcpt.recipe import CLEAN

EVALUATION_FILE = "evaluation.json"  # what `dcpt evaluate --json` printed, beside the weights it is about
NOISE_25 = "noise (sigma 25)"
DIRECTIONS = {None: "", True: ", lower is better", False: ", higher is better"}  # of a further metric


@dataclass(frozen=True)
class Score:
    """Mean quality over the pictures of one degradation, before and after.

    Attributes:
        name: Degradation.
        psnr_lq: Mean PSNR of the degraded pictures in dB; infinite for clean ones.
        psnr: Mean PSNR of the restored pictures in dB.
        ssim_lq: Mean SSIM of the degraded pictures.
        ssim: Mean SSIM of the restored pictures.
        extra: Means of further metrics: NAME_lq of the degraded pictures, NAME of the restored ones.
    """

    name: str
    psnr_lq: float
    psnr: float
    ssim_lq: float
    ssim: float
    extra: Mapping[str, float] = field(default_factory=dict)

    @property
    def gain(self) -> float:
        """PSNR gained in dB."""
        return self.psnr - self.psnr_lq


@dataclass(frozen=True)
class PictureScore:
    """Quality of one picture, before and after.

    Attributes:
        label: Its degradation.
        name: What it is called.
        psnr_lq: PSNR of the degraded picture in dB; infinite for a clean one.
        psnr: PSNR of the restored picture in dB.
        ssim_lq: SSIM of the degraded picture.
        ssim: SSIM of the restored picture.
        seconds: What restoring it took.
        extra: Further metrics: NAME_lq of the degraded picture, NAME of the restored one.
    """

    label: str
    name: str
    psnr_lq: float
    psnr: float
    ssim_lq: float
    ssim: float
    seconds: float
    extra: Mapping[str, float] = field(default_factory=dict)


MEASURED = ("psnr_lq", "psnr", "ssim_lq", "ssim")
TAKEN = {"gain", *(x.name for x in fields(PictureScore))}  # by reports themselves; not for further metrics


@dataclass(frozen=True)
class Report:
    """Numbers together with what made them.

    Attributes:
        protocol: What determines the numbers besides model and pictures.
        data: Name of the set of pictures.
        images: Number of pictures; of one degradation, where all have the same ones.
        scores: One row per degradation: the means over its pictures.
        model: Name of the model.
        digest: Hash of everything that determines the numbers: protocol, pictures, weights and further metrics.
        pictures: The numbers of every picture.
        lower_better: The further metrics by name, and whether less of each is better; None if that is unknown.
    """

    protocol: str
    data: str
    images: int
    scores: tuple[Score, ...]
    model: str = ""
    digest: str = ""
    pictures: tuple[PictureScore, ...] = ()
    lower_better: Mapping[str, bool | None] = field(default_factory=dict)

    @classmethod
    def of(cls, pictures: Sequence[PictureScore], **facts: Any) -> Report:
        """Average the numbers of pictures by degradation."""
        by_label: dict[str, list[PictureScore]] = {}
        for picture in pictures:
            by_label.setdefault(picture.label, []).append(picture)
        scores = [
            Score(
                label,
                *(sum(getattr(x, name) for x in rows) / len(rows) for name in MEASURED),
                extra={name: sum(x.extra[name] for x in rows) / len(rows) for name in rows[0].extra},
            )
            for label, rows in by_label.items()
        ]
        counts = {len(rows) for rows in by_label.values()}
        images = counts.pop() if len(counts) == 1 else len(pictures)
        return cls(images=images, scores=tuple(scores), pictures=tuple(pictures), **facts)

    @property
    def mean_gain(self) -> float:
        """Mean PSNR gain in dB over the degradations; clean does not count, nor sigma 25 beside noise."""
        names = {score.name for score in self.scores}
        left_out = (CLEAN, NOISE_25) if "noise" in names else (CLEAN,)
        gains = [score.gain for score in self.scores if score.name not in left_out]
        return sum(gains) / len(gains)

    def as_dict(self, *, pictures: bool = False) -> dict[str, Any]:
        """Return plain data for JSON; what is infinite, as the PSNR of clean pictures, is None.

        Args:
            pictures: Whether the numbers of every picture are to be in it.
        """
        rows = [as_row(score) | {"gain": score.gain} for score in self.scores]
        plain: dict[str, Any] = {name: getattr(self, name) for name in ("protocol", "data", "images")}
        plain |= {"scores": [_finite(row) for row in rows], "mean_gain": self.mean_gain}
        plain |= {name: value for name in ("model", "digest", "lower_better") if (value := getattr(self, name))}
        return plain | ({"pictures": [_finite(as_row(picture)) for picture in self.pictures]} if pictures else {})

    def table(self, paper: Mapping[str, tuple[float, float | None]] | None = None) -> str:
        """Return the scores as a Markdown table.

        Args:
            paper: What a paper reports, PSNR and SSIM by label, to be set beside them.
        """
        titles = ["degradation", "PSNR in", "PSNR out", "gain", "SSIM in", "SSIM out"]
        rows = [_row(score) for score in self.scores]
        count = len(self.scores) - sum(score.name in (CLEAN, NOISE_25) for score in self.scores)
        mean = {10: "mean of ten"}.get(count, "mean")
        for name, lower in self.lower_better.items():
            titles += [f"{name} in", f"{name} out{DIRECTIONS[lower]}"]
        rows.append([f"**{mean}**", "", "", f"**{self.mean_gain:+.2f}**", *[""] * (len(titles) - 4)])
        if paper:
            titles += ["paper's PSNR", "paper's SSIM"]
            for row, name in zip(rows, [*(score.name for score in self.scores), "average"], strict=True):
                row += ["-" if value is None else f"{value:.4g}" for value in paper.get(name, (None, None))]
        dashes = "|".join(["---", *["--:"] * (len(titles) - 1)])
        lines = ["| " + " | ".join(cells) + " |" for cells in (titles, *rows)]
        return "\n".join([lines[0], f"|{dashes}|", *(line.replace("|  ", "| ") for line in lines[1:])])


def _row(score: Score) -> list[str]:
    known = math.isfinite(score.gain)
    return [
        score.name,
        f"{score.psnr_lq:.2f}" if known else "-",
        f"{score.psnr:.2f}",
        f"{score.gain:+.2f}" if known else "-",
        f"{score.ssim_lq:.3f}",
        f"{score.ssim:.3f}",
        *(f"{value:.4g}" if math.isfinite(value) else "-" for value in score.extra.values()),
    ]


def as_row(score: Score | PictureScore) -> dict[str, Any]:
    """Return its numbers side by side, those of further metrics last; of these, None for what is not finite."""
    row = asdict(score)
    extra = row.pop("extra")
    return row | {name: value if math.isfinite(value) else None for name, value in extra.items()}


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if value in (math.inf, -math.inf) else value for name, value in row.items()}


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
    lower_better = data.get("lower_better", {})
    extras = [column for name in lower_better for column in (f"{name}_lq", name)]
    scores = tuple(
        Score(
            *(math.inf if row[name] is None else row[name] for name in names),
            extra={name: math.nan if row[name] is None else row[name] for name in extras},
        )
        for row in data["scores"]
    )
    facts = {name: data.get(name, "") for name in ("model", "digest")}
    return Report(data["protocol"], data["data"], data["images"], scores, lower_better=lower_better, **facts)
