"""The colour filter array of a sensor."""

from __future__ import annotations

import torch
from torch import Tensor

from dcpt.degradations.base import per_picture, register_degradation


@register_degradation("sensor")
def demosaic(gt: Tensor, generator: torch.Generator, severity: Tensor) -> Tensor:
    """Keep one colour per pixel, in the RGGB pattern, and set the other two to zero.

    The pattern itself is all or nothing. Severity: standard deviation of the read noise of the
    samples that remain, 4 * severity grey levels of 255.
    """
    mosaic = torch.zeros_like(gt[:1])
    mosaic[:, 0, 0::2, 0::2] = 1
    mosaic[:, 1, 0::2, 1::2] = 1
    mosaic[:, 1, 1::2, 0::2] = 1
    mosaic[:, 2, 1::2, 1::2] = 1
    read_noise = torch.randn(gt.shape, generator=generator, device=gt.device, dtype=gt.dtype)
    return (gt + per_picture(4 / 255 * severity) * read_noise).clamp(0, 1) * mosaic
