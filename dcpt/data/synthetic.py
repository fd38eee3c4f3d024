"""Training pictures: photographs degraded on the fly, on any device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dcpt.data.batches import MIXED, Sample
from dcpt.data.crops import PackedCrops, sample_patches
from dcpt.degradations import apply_degradations
from dcpt.degradations.base import uniform
from dcpt.errors import InvalidSetting
from dcpt.recipe import CLEAN, Recipe, Stage

# Patches are degraded with this margin, in pixels, which is then cut off: the longest blur
# kernels reach 15 pixels, and a border of repeated pixels is nothing a photograph has.
MARGIN = 16


class Synthesis:
    """Degrades clean patches as a recipe says.

    Args:
        recipe: Gives the labels.
        stage: Gives sampling weights and the shares of clean and mixed pictures.
        names: The degradations to make, by default all of the recipe.

    Raises:
        InvalidSetting: If there is none to make.
    """

    def __init__(self, recipe: Recipe, stage: Stage, *, names: Sequence[str] | None = None) -> None:
        self.labels = recipe.labels
        self.names = recipe.degradations if names is None else tuple(names)
        if not self.names:
            raise InvalidSetting(f"expected a registered degradation among the labels, got {list(recipe.labels)}")
        self.weights = torch.tensor([stage.sampling_weights.get(name, 1.0) for name in self.names])
        self.stage = stage

    def __call__(self, gt: Tensor, generator: torch.Generator, seed: int) -> Sample:
        """Degrade one patch.

        Args:
            gt: The clean patch with a margin, (1, 3, P + 2 * MARGIN, P + 2 * MARGIN), RGB in [0, 1].
            generator: Draws how each degradation looks, on the patch's device.
            seed: Decides which ones there are.
        """
        # On the CPU, for choices steer the program; of another seed (in its low 32 bits, the only
        # ones that count there), for equal bits drawn as crop and as label would tie photographs
        # to degradations.
        choices = torch.Generator().manual_seed(seed ^ 0x5DEECE66)
        label = self._draw_label(choices)
        severity = uniform(generator, 1)
        severities = {name: severity * share for name, share in self._draw_chain(label, choices).items()}
        lq = apply_degradations(gt, severities, generator)
        lq, gt = (x[..., MARGIN:-MARGIN, MARGIN:-MARGIN] for x in ((lq * 255).round() / 255, gt))
        return Sample(lq, gt, label)

    def _draw_label(self, choices: torch.Generator) -> int:
        kind = int(torch.multinomial(self.weights, 1, generator=choices))
        fate = float(torch.rand((), generator=choices))
        if fate < self.stage.clean_share:
            return self.labels.index(CLEAN)
        if fate >= 1 - self.stage.mixed_share:
            return MIXED
        return self.labels.index(self.names[kind])

    def _draw_chain(self, label: int, choices: torch.Generator) -> dict[str, float]:
        """Return the degradations of a label, each with a factor on the drawn severity."""
        if label == MIXED:
            order = torch.randperm(len(self.names), generator=choices)
            length = 2 + int(torch.randint(2, (), generator=choices))
            return {self.names[i]: 0.7 for i in order[:length].tolist()}
        name = self.labels[label]
        return {} if name == CLEAN else {name: 1.0}


class SyntheticPictures:
    """Degraded patches of clean photographs.

    Args:
        crops: Clean photographs, on the device where the patches are to be made.
        recipe: As for `Synthesis`.
        stage: Gives patch size, and what `Synthesis` needs.
        names: As for `Synthesis`.

    Raises:
        InvalidSetting: As `Synthesis`.
    """

    def __init__(self, crops: PackedCrops, recipe: Recipe, stage: Stage, *, names: Sequence[str] | None = None) -> None:
        self.crops, self.size = crops, stage.patch_size + 2 * MARGIN
        self.synthesis = Synthesis(recipe, stage, names=names)

    def draw(self, number: int, seed: int) -> Sample:
        """Degrade one patch."""
        generator = torch.Generator(self.crops.pixels.device).manual_seed(seed)
        return self.synthesis(sample_patches(self.crops, 1, self.size, generator), generator, seed)
