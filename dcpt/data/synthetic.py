"""Training batches of photographs degraded on the fly, on any device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dcpt.data.crops import PackedCrops, sample_patches
from dcpt.degradations import apply_degradations
from dcpt.degradations.base import uniform
from dcpt.recipe import CLEAN, Recipe, Stage

MIXED = -1  # label of a picture with several degradations

# Patches are degraded with this margin, in pixels, which is then cut off: the longest blur
# kernels reach 15 pixels, and a border of repeated pixels is nothing a photograph has.
MARGIN = 16


@dataclass(frozen=True)
class Batch:
    """One training batch.

    Attributes:
        lq: Degraded pictures, (B, 3, P, P), RGB in [0, 1], in whole grey levels like a file.
        gt: The clean pictures, same shape.
        label: Index into the recipe's labels, (B,), int64; `MIXED` for several degradations.
    """

    lq: Tensor
    gt: Tensor
    label: Tensor

    def to(self, device: torch.device) -> Batch:
        """Return the batch on another device."""
        return Batch(*(x.to(device) for x in (self.lq, self.gt, self.label)))

    def pictures(self) -> Iterator[Batch]:
        """Give the pictures one by one, as batches of one."""
        for index in range(len(self.lq)):
            yield Batch(*(x[index : index + 1] for x in (self.lq, self.gt, self.label)))


def step_seed(seed: int, step: int) -> int:
    """Return the seed of one step of a run, from that of the run."""
    # Multiplied by a large odd number, so that neighbouring runs and steps share no seed.
    return (seed * 0x9E3779B1 + step) % 2**62


class SyntheticBatches:
    """The endless data stream of a recipe stage; the batch of a step is a function of the step.

    Because `batches(step)` depends on nothing but the seed and the step, a resumed run sees
    exactly the pictures that an uninterrupted one would have seen, and nothing need be saved.

    Args:
        crops: Clean photographs, on the device where batches are wanted.
        recipe: Gives the labels and the seed.
        stage: Gives batch size, patch size and the shares of clean and mixed pictures.
    """

    def __init__(self, crops: PackedCrops, recipe: Recipe, stage: Stage) -> None:
        self.crops = crops
        self.labels = recipe.labels
        self.names = recipe.degradations
        self.seed = recipe.seed
        self.stage = stage
        self.device = crops.pixels.device

    def __call__(self, step: int) -> Batch:
        """Make the batch of a step."""
        seed = step_seed(self.seed, step)
        generator = torch.Generator(self.device).manual_seed(seed)
        # On the CPU, for choices steer the program; of another seed (in its low 32 bits, the only
        # ones that count there), for equal bits drawn as crop and as label would tie photographs
        # to degradations.
        choices = torch.Generator().manual_seed(seed ^ 0x5DEECE66)
        size = self.stage.patch_size + 2 * MARGIN
        gt = sample_patches(self.crops, self.stage.batch_size, size, generator)
        severity = uniform(generator, len(gt))
        label = self._draw_labels(choices)
        lq = gt.clone()
        for index in label.unique().tolist():
            members = (label == index).nonzero().squeeze(1).to(self.device)
            chain = self._draw_chain(index, choices)
            severities = {name: severity[members] * share for name, share in chain.items()}
            lq[members] = apply_degradations(gt[members], severities, generator)
        lq, gt = (x[..., MARGIN:-MARGIN, MARGIN:-MARGIN] for x in ((lq * 255).round() / 255, gt))
        return Batch(lq, gt, label.to(self.device))

    def _draw_labels(self, choices: torch.Generator) -> Tensor:
        count, stage = self.stage.batch_size, self.stage
        weights = torch.tensor([stage.sampling_weights.get(name, 1.0) for name in self.names])
        kinds = torch.multinomial(weights, count, replacement=True, generator=choices)
        label = torch.tensor([self.labels.index(name) for name in self.names])[kinds]
        fate = torch.rand(count, generator=choices)
        if stage.clean_share:
            label[fate < stage.clean_share] = self.labels.index(CLEAN)
        label[fate >= 1 - stage.mixed_share] = MIXED
        return label

    def _draw_chain(self, index: int, choices: torch.Generator) -> dict[str, float]:
        """Return the degradations of a label, each with a factor on the drawn severity.

        The mixed pictures of a batch share one chain, so that it runs once for all of them.
        """
        if index == MIXED:
            order = torch.randperm(len(self.names), generator=choices)
            length = 2 + int(torch.randint(2, (), generator=choices))
            return {self.names[i]: 0.7 for i in order[:length].tolist()}
        name = self.labels[index]
        return {} if name == CLEAN else {name: 1.0}
