"""How well a model restores and recognises: the numbers of a benchmark, and those without a model."""

from __future__ import annotations

import hashlib
import heapq
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor

from dcpt.backbones import Backbone
from dcpt.cases import Benchmark, Case, degrade_frozen, synthetic_benchmark
from dcpt.errors import InvalidSetting
from dcpt.heads import DegradationClassifier
from dcpt.image import read_picture
from dcpt.registry import unknown_name
from dcpt.report import TAKEN, Confusion, PictureScore, Report

Restore = Callable[[Tensor], Tensor]
Metric = Callable[[Tensor, Tensor], float | Tensor]
Progress = Callable[[Any], Iterable[Any]]

SHOWN = 4  # pictures kept of the best, and of the worst


@dataclass(frozen=True, order=True)
class Sample:
    """A picture worth showing: by how much it gained, which it is, and its three states, each (3, H, W)."""

    gain: float
    name: str
    states: tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Evaluation:
    """What came out: the report, and the pictures that lost or gained most."""

    report: Report
    worst: list[Sample]
    best: list[Sample]


def evaluate(
    restore: Restore,
    benchmark: Benchmark,
    *,
    model: str = "",
    weights_hash: str = "",
    metrics: Mapping[str, Metric] | None = None,
    progress: Progress = iter,
) -> Evaluation:
    """Measure a restorer on a benchmark.

    Args:
        restore: Maps (1, 3, H, W) in [0, 1] to the same, such as `Restorer(...).restore_batch`, a baseline
            or any network behind a function.
        benchmark: What to measure on.
        model: Name of the model, for the report.
        weights_hash: From `hash_weights`; a part of the report's digest.
        metrics: What to measure beside PSNR and SSIM, by name: functions of the restored and the clean picture
            as these get them, (1, 3, H, W) in [0, 1], that return a number or a tensor of one. The report
            heeds their attributes `lower_better` and, in its digest, `version`, where they have them.
        progress: Wraps the loop over pictures, such as `tqdm`.

    Raises:
        InvalidSetting: If a metric returns no number, or has a name that reports use themselves.
    """
    jury = Jury(benchmark, weights_hash, metrics or {})
    following = [*benchmark.cases[1:], None]
    # The next picture is made and the last one measured while the network works on this one.
    with ThreadPoolExecutor(max_workers=1) as pool:
        upcoming = pool.submit(benchmark.cases[0].load)
        verdict = None
        for case, after in progress(list(zip(benchmark.cases, following, strict=True))):
            lq, gt = upcoming.result()
            if after:
                upcoming = pool.submit(after.load)
            started = time.perf_counter()
            restored = restore(lq)
            seconds = time.perf_counter() - started
            if verdict:
                verdict.result()  # what cannot be measured is said now, not after hours of restoring
            verdict = pool.submit(jury.judge, case, lq, restored, gt, seconds)
        verdict.result()
    return jury.conclude(model)


class Jury:
    """Measures the pictures of a benchmark one after the other."""

    def __init__(self, benchmark: Benchmark, weights_hash: str, metrics: Mapping[str, Metric]) -> None:
        self.benchmark, self.protocol, self.metrics = benchmark, benchmark.protocol, metrics
        self.digest = hashlib.sha256(f"{benchmark.description} {asdict(self.protocol)} {weights_hash}".encode())
        for name, metric in metrics.items():
            if name in TAKEN or name.endswith("_lq"):
                raise InvalidSetting(
                    f"expected a metric that reports do not have, got {name!r}; leave out or rename it"
                )
            self.digest.update(f"{name} {getattr(metric, 'version', '')}\n".encode())
        self.scores: list[PictureScore] = []
        self.best: list[tuple[float, str, Sample]] = []
        self.worst: list[tuple[float, str, Sample]] = []

    def judge(self, case: Case, lq: Tensor, restored: Tensor, gt: Tensor, seconds: float) -> None:
        """Measure one picture."""
        for picture in (lq, gt):
            self.digest.update(picture.contiguous().numpy())
        degraded, restored = self.protocol.finish(lq), self.protocol.finish(restored)
        before, after = self.protocol.score(degraded, gt), self.protocol.score(restored, gt)
        numbers = before[0], after[0], before[1], after[1]
        self.scores.append(PictureScore(case.label, case.name, *numbers, seconds, self.measure(degraded, restored, gt)))
        sample = Sample(after[0] - before[0], f"{case.label}: {case.name}", (degraded[0], restored[0], gt[0]))
        keep(self.best, sample, sample.gain)
        keep(self.worst, sample, -sample.gain)

    @torch.no_grad()
    def measure(self, degraded: Tensor, restored: Tensor, gt: Tensor) -> dict[str, float]:
        """Return what the extra metrics say, of the degraded picture as NAME_lq."""
        states = {"_lq": degraded, "": restored}
        return {
            f"{name}{suffix}": to_number(name, metric(picture, gt))
            for name, metric in self.metrics.items()
            for suffix, picture in states.items()
        }

    def conclude(self, model: str) -> Evaluation:
        """Return what came out."""
        facts = {"protocol": self.benchmark.description, "data": self.benchmark.data, "model": model}
        lower_better = {name: getattr(metric, "lower_better", None) for name, metric in self.metrics.items()}
        report = Report.of(self.scores, digest=self.digest.hexdigest(), lower_better=lower_better, **facts)
        return Evaluation(report, *([sample for _, _, sample in sorted(x)[::-1]] for x in (self.worst, self.best)))


def to_number(name: str, value: Any) -> float:
    """Return what a metric gave as a number, or raise InvalidSetting."""
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise InvalidSetting(f"expected one number from metric {name!r}, got {str(value)[:60]}") from None


def keep(heap: list[tuple[float, str, Sample]], sample: Sample, value: float) -> None:
    """Keep a sample if its value, which must be finite, is among the highest."""
    if abs(value) < float("inf"):
        push = heapq.heappush if len(heap) < SHOWN else heapq.heappushpop
        push(heap, (value, sample.name, sample))


def find_baseline(name: str) -> Restore:
    """Return what can be had without a model: "none", "median" or "autocontrast".

    Raises:
        UnknownName: If there is no such baseline.
    """
    filters: dict[str, Callable[[Image.Image], Image.Image]] = {
        "none": lambda image: image,
        "median": lambda image: image.filter(ImageFilter.MedianFilter(3)),
        "autocontrast": lambda image: ImageOps.autocontrast(image, cutoff=0.5),
    }
    if name not in filters:
        raise unknown_name("baseline", name, filters)
    if name == "none":
        return lambda lq: lq

    def restore(lq: Tensor) -> Tensor:
        pixels = (lq[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        return read_picture(filters[name](Image.fromarray(pixels)))[0]

    return restore


def evaluate_synthetic(
    restore: Restore, pictures: Sequence[Tensor], *, data: str = "", progress: Progress = iter
) -> Report:
    """Measure a restorer on the ten degradations, on noise of sigma 25 and on clean pictures.

    Args:
        restore: As for `evaluate`.
        pictures: Clean pictures from `load_clean_pictures`.
        data: Name of the set they are, for the report.
        progress: As for `evaluate`.
    """
    return evaluate(restore, synthetic_benchmark("synthetic-10d", pictures, data=data), progress=progress).report


@torch.inference_mode()
def classify_synthetic(
    backbone: Backbone,
    head: DegradationClassifier,
    pictures: Sequence[Tensor],
    *,
    data: str = "",
    progress: Progress = iter,
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
    protocol = synthetic_benchmark("synthetic-10d", ()).description
    return Confusion(protocol, data, head.labels, counts)
