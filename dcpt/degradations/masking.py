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
    # One row per mark, drawn over the whole picture: (B, marks, H, W) per line below.
    shape = (batch, _MARKS, 1, 1)
    strength = severity.view(-1, 1, 1, 1)
    y = torch.arange(height, device=gt.device).view(1, 1, -1, 1) - uniform(generator, *shape) * height
    x = torch.arange(width, device=gt.device).view(1, 1, 1, -1) - uniform(generator, *shape) * width
    angle = uniform(generator, *shape, high=math.pi)
    along, across = y * angle.sin() + x * angle.cos(), x * angle.sin() - y * angle.cos()

    thickness = scale * (2 + 5 * strength) * uniform(generator, *shape, low=0.6)
    line = across.abs() < (thickness / 2).clamp(min=0.5)
    half_y = uniform(generator, *shape, low=0.2) * 0.05 * (1 + strength) / 2 * height
    half_x = uniform(generator, *shape, low=0.2) * 0.05 * (1 + strength) / 2 * width
    box = (y.abs() < half_y) & (x.abs() < half_x)
    wave = 6 * scale * uniform(generator, *shape) * torch.sin(along / (scale * 20) + 7 * angle)
    scratch_width = scale * (1 + 2 * strength) * uniform(generator, *shape, low=0.5)
    length = uniform(generator, *shape, low=0.2, high=0.7) * max(height, width)
    scratch = ((across - wave).abs() < (scratch_width / 2).clamp(min=0.5)) & (along.abs() < length)

    kind = uniform(generator, *shape)
    mark = torch.where(kind < 0.4, line, torch.where(kind < 0.6, box, scratch))
    drawn = torch.arange(_MARKS, device=gt.device).view(1, -1, 1, 1) < torch.round(3 + 7 * strength)
    covered = (mark & drawn).any(1, keepdim=True)
    colour = per_picture((uniform(generator, batch) < 0.5).to(gt.dtype))
    return torch.where(covered, colour, gt)
