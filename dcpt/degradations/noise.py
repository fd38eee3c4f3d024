"""Sensor noise."""

from __future__ import annotations

import torch
from torch import Tensor

from dcpt.degradations.base import per_picture, register_degradation


@register_degradation("sensor")
def noise(gt: Tensor, generator: torch.Generator, severity: Tensor) -> Tensor:
    """Add white Gaussian noise and clip, as an 8-bit file would.

    Severity: standard deviation sigma = 1 + 49 * severity, in grey levels of 255; the classic
    sigmas 15, 25 and 50 are severities 0.286, 0.490 and 1.
    """
    sigma = per_picture(1 + 49 * severity) / 255
    grain = torch.randn(gt.shape, generator=generator, device=gt.device, dtype=gt.dtype)
    return (gt + sigma * grain).clamp(0, 1)
