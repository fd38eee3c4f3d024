"""Too little light."""

from __future__ import annotations

import torch
from torch import Tensor

from dcpt.degradations.base import GAMMA, per_picture, register_degradation, uniform


@register_degradation("exposure")
def low_light(gt: Tensor, generator: torch.Generator, severity: Tensor) -> Tensor:
    """Underexpose in linear light, with a colour cast, a darker tone curve and sensor noise.

    Severity: exposure = -1 - 4 * severity stops; tone curve exponent up to 1.2; shot noise
    (variance proportional to the signal) and read noise rise with it, up to the noise of about
    ISO 6400 on a small camera.
    """
    batch = len(gt)
    exposure = per_picture(2 ** (-1 - 4 * severity))
    cast = uniform(generator, batch, 3, low=0.9, high=1.1).view(-1, 3, 1, 1)
    linear = (gt**GAMMA * exposure * cast).clamp(0, 1)
    shot, read = 2e-4 * per_picture(severity), 4e-4 * per_picture(severity)
    grain = torch.randn(gt.shape, generator=generator, device=gt.device, dtype=gt.dtype)
    linear = (linear + (shot * linear + read**2).sqrt() * grain).clamp(0, 1)
    curve = per_picture(1 + 0.2 * severity * uniform(generator, batch))
    return linear ** (curve / GAMMA)
