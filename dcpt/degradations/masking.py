"""Parts of the picture that are gone: lines, boxes and scratches."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dcpt.degradations.base import SCENE, per_picture, register_degradation, uniform

_MARKS = 10


@register_degradation("surface")
def inpainting(gt: Tensor, generator: torch.Generator, severity: Tensor) -> Tensor:
    """Cover parts with straight lines, boxes and wavering scratches, all white or all black.

    Severity: lines up to 2 to 7 pixels thick, boxes with sides up to 13 to 26 pixels, scratches up
    to 1 to 3 pixels thick; 3 to 10 of them in a picture of 256 pixels or more, fewer in a smaller.
    """
    batch, _, height, width = gt.shape
    share = min(1.0, max(height, width) / SCENE)
    covered = torch.zeros_like(gt[:, :1], dtype=torch.bool)
    for index in range(_MARKS):
        drawn = per_picture(index < torch.round(share * (3 + 7 * severity)).clamp(min=1))
        covered |= drawn & draw_mark(height, width, per_picture(severity), generator)
    colour = per_picture((uniform(generator, batch) < 0.5).to(gt.dtype))
    return torch.where(covered, colour, gt)


def draw_mark(height: int, width: int, strength: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a line, a box or a scratch at random for each picture: (B, 1, H, W), bool.

    `strength`, (B, 1, 1, 1), in [0, 1], makes them larger.
    """
    batch = len(strength)

    def draw(low: float = 0.0, high: float = 1.0) -> Tensor:
        return uniform(generator, batch, 1, 1, 1, low=low, high=high)

    y = torch.arange(height, device=generator.device).view(1, 1, -1, 1) - draw() * height
    x = torch.arange(width, device=generator.device).view(1, 1, 1, -1) - draw() * width
    angle = draw(high=math.pi)
    along, across = y * angle.sin() + x * angle.cos(), x * angle.sin() - y * angle.cos()

    line = across.abs() < (1 + 2.5 * strength) * draw(low=0.6)
    half = 6.5 * (1 + strength)
    box = (y.abs() < half * draw(low=0.2)) & (x.abs() < half * draw(low=0.2))
    wave = 6 * draw() * torch.sin(along / 20 + 7 * angle)
    scratch = (across - wave).abs() < ((0.5 + strength) * draw(low=0.5)).clamp(min=0.5)
    scratch &= along.abs() < draw(low=0.2, high=0.7) * max(height, width)

    kind = draw()
    return torch.where(kind < 0.4, line, torch.where(kind < 0.6, box, scratch))
