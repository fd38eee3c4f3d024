"""The data stream of a run: every picture of every step follows from the run's seed and the picture's number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

MIXED = -1  # label of a picture with several degradations


@dataclass(frozen=True)
class Sample:
    """One training picture.

    Attributes:
        lq: Degraded picture, (1, 3, P, P), RGB in [0, 1].
        gt: The clean picture, same shape.
        label: Index into the recipe's labels; `MIXED` for several degradations.
        skipped: Files that could not be used and were passed over on the way, with the reason.
    """

    lq: Tensor
    gt: Tensor
    label: int
    skipped: Mapping[str, str] = field(default_factory=dict)


class Source(Protocol):
    """Something that gives training pictures by number."""

    def draw(self, number: int, seed: int) -> Sample:
        """Return the picture of a number, drawn with a seed that follows from it."""


@dataclass(frozen=True)
class Batch:
    """One training batch.

    Attributes:
        lq: Degraded pictures, (B, 3, P, P), RGB in [0, 1], in whole grey levels like a file.
        gt: The clean pictures, same shape.
        label: Index into the recipe's labels, (B,), int64; `MIXED` for several degradations.
        seed: Seed of each picture, (B,), int64, for what else a step draws at random.
        skipped: Files that could not be used and were passed over, with the reason.
    """

    lq: Tensor
    gt: Tensor
    label: Tensor
    seed: Tensor
    skipped: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.lq)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on another device; the seeds stay on the CPU."""
        lq, gt, label = (x.to(device) for x in (self.lq, self.gt, self.label))
        return Batch(lq, gt, label, self.seed, self.skipped)

    def split(self, count: int) -> Iterator[Batch]:
        """Give the batch in so many parts of nearly equal size, fewer if it has fewer pictures."""
        parts = (x.tensor_split(min(count, len(self))) for x in (self.lq, self.gt, self.label, self.seed))
        yield from (Batch(*part) for part in zip(*parts, strict=True))


def picture_seed(seed: int, number: int) -> int:
    """Return the seed of one picture of a run, from that of the run."""
    # Multiplied by a large odd number, so that neighbouring runs share no seed.
    return (seed * 0x9E3779B1 + number) % 2**62


class Batches:
    """The endless data stream of a stage; the batch of a step is a function of the step.

    Because nothing but the seed and the number of a picture counts, a resumed run sees exactly the
    pictures that an uninterrupted one would have seen, and several processes together see those
    that one alone would.

    Args:
        sources: Where pictures come from.
        weights: How often each source is drawn from, relative to the others.
        seed: Seed of the run.
        batch_size: Pictures per step, of all processes together.
        members: Which of them this process makes, by default all.
        device: Where the batch is wanted.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        weights: Sequence[float],
        *,
        seed: int,
        batch_size: int,
        members: Sequence[int] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.sources = sources
        self.weights = torch.tensor(weights, dtype=torch.float64)
        self.seed = seed
        self.batch_size = batch_size
        self.members = range(batch_size) if members is None else members
        self.device = torch.device(device)

    def __call__(self, step: int) -> Batch:
        """Make the batch of a step."""
        numbers = [step * self.batch_size + member for member in self.members]
        seeds = [picture_seed(self.seed, number) for number in numbers]
        samples = [self._source(seed).draw(number, seed) for number, seed in zip(numbers, seeds, strict=True)]
        lq, gt = (
            torch.cat([picture.to(self.device) for picture in pictures]).contiguous(memory_format=torch.channels_last)
            for pictures in ([sample.lq for sample in samples], [sample.gt for sample in samples])
        )
        label = torch.tensor([sample.label for sample in samples], device=self.device)
        skipped = {name: reason for sample in samples for name, reason in sample.skipped.items()}
        return Batch(lq, gt, label, torch.tensor(seeds), skipped)

    def _source(self, seed: int) -> Source:
        if len(self.sources) == 1:
            return self.sources[0]
        choices = torch.Generator().manual_seed(seed ^ 0x2545F491)  # of another seed than what the source draws
        return self.sources[int(torch.multinomial(self.weights, 1, generator=choices))]
