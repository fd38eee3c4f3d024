"""Parts of the picture that are gone: lines, boxes and scratches."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dcpt.degradations.base import per_picture, register_degradation, uniform

_MARKS = 10


@register_degradation("surface")
def inpainting(gt: Tensor, generator: torch.Generator, severity: Tensor) -> Tensor:
    """Cover parts with straight lines, boxes and wavering scratches, all white or all black.

    Severity: 3 to 10 marks; lines 2 to 7 pixels thick, boxes with sides up to 0.1 of the
    picture's, scratches of 1 to 3 pixels (sizes for a picture of 256 pixels, scaled with the
    shorter side of others).
    """
    batch, _, height, width = gt.shape
    scale = max(min(height, width) / 256, 0.25)
    covered = torch.zeros_like(gt[:, :1], dtype=torch.bool)
    for index in range(_MARKS):
        drawn = per_picture(index < torch.round(3 + 7 * severity))
        covered |= drawn & draw_mark(batch, height, width, scale, per_picture(severity), generator)
    colour = per_picture((uniform(generator, batch) < 0.5).to(gt.dtype))
    return torch.where(covered, colour, gt)


def draw_mark(
    batch: int, height: int, width: int, scale: float, strength: Tensor, generator: torch.Generator
) -> Tensor:
    """Draw a line, a box or a scratch at random into each picture: (B, 1, H, W), bool.

    `strength`, (B, 1, 1, 1), in [0, 1], makes them larger; `scale` multiplies sizes in pixels.
    """

    def draw(low: float = 0.0, high: float = 1.0) -> Tensor:
        return uniform(generator, batch, 1, 1, 1, low=low, high=high)

    y = torch.arange(height, device=generator.device).view(1, 1, -1, 1) - draw() * height
    x = torch.arange(width, device=generator.device).view(1, 1, 1, -1) - draw() * width
    angle = draw(high=math.pi)
    along, across = y * angle.sin() + x * angle.cos(), x * angle.sin() - y * angle.cos()

    line = across.abs() < (scale * (1 + 2.5 * strength) * draw(low=0.6)).clamp(min=0.5)
    half = 0.025 * (1 + strength)
    box = (y.abs() < half * draw(low=0.2) * height) & (x.abs() < half * draw(low=0.2) * width)
    wave = 6 * scale * draw() * torch.sin(along / (scale * 20) + 7 * angle)
    scratch = (across - wave).abs() < (scale * (0.5 + strength) * draw(low=0.5)).clamp(min=0.5)
    scratch &= along.abs() < draw(low=0.2, high=0.7) * max(height, width)

    kind = draw()
    return torch.where(kind < 0.4, line, torch.where(kind < 0.6, box, scratch))
