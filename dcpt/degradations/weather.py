"""Haze, snow and rain: what stands in the air between the scene and the camera."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dcpt.degradations.base import per_picture, register_degradation, scene_window, smooth_field, uniform
from dcpt.degradations.blur import convolve, pixel_grid


def procedural_depth(gt: Tensor, generator: torch.Generator) -> Tensor:
    """Invent a plausible depth in [0, 1], (B, 1, H, W): 0 at the camera, 1 at the horizon.

    Three cues, mixed anew for each picture: the ground recedes upwards, surfaces undulate,
    and regions of one brightness tend to lie at one distance (bright ones, like sky, far).
    """
    batch, _, height, width = gt.shape
    window = scene_window(batch, height, width, generator)
    up = 0.5 - window[:, :, :1, 1].view(batch, 1, height, 1) / 2
    ground = up.clamp(0, 1) ** per_picture(uniform(generator, batch, low=0.4, high=2))
    cells = [max(1, min(side // 16, 16)) for side in (height, width)]
    brightness = F.adaptive_avg_pool2d(gt.mean(1, keepdim=True), cells)
    brightness = F.interpolate(brightness, (height, width), mode="bicubic", align_corners=False)
    weights = uniform(generator, batch, 3, low=0.05) * torch.tensor([1.0, 0.6, 0.8], device=gt.device)
    weights = weights / weights.sum(1, keepdim=True)
    cues = (ground, smooth_field(window, generator), brightness.clamp(0, 1))
    depth = sum(per_picture(weights[:, i]) * cue for i, cue in enumerate(cues))
    return depth.clamp(0, 1)


@register_degradation("scene")
def haze(gt: Tensor, generator: torch.Generator, severity: Tensor) -> Tensor:
    """Atmospheric scattering over a procedural depth: t * gt + (1 - t) * airlight.

    Severity: optical thickness at the horizon, beta = 0.3 + 2 * severity (transmission
    exp(-beta) = 0.74 to 0.10 there); the nearest points have a quarter of it. The airlight is
    0.7 to 1, nearly grey.
    """
    batch = len(gt)
    distance = 0.25 + 0.75 * procedural_depth(gt, generator)
    transmission = torch.exp(-per_picture(0.3 + 2 * severity) * distance)
    airlight = uniform(generator, batch, 1, low=0.7) + uniform(generator, batch, 3, low=-0.03, high=0.03)
    return torch.lerp(airlight.view(-1, 3, 1, 1), gt, transmission).clamp(0, 1)


def streak_kernels(length: Tensor, thickness: Tensor, angle: Tensor, *, radius: int) -> Tensor:
    """Return motion streaks, (B, K, K), brightest at 1: a soft line of `length` x `thickness` pixels.

    `angle` in radians from the vertical.
    """
    grid = pixel_grid(radius, length.device)
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    cos, sin = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
    along, across = y * cos + x * sin, x * cos - y * sin
    body = torch.sigmoid(2 * (length.view(-1, 1, 1) / 2 - along.abs()))
    return body * torch.exp(-0.5 * (across / thickness.view(-1, 1, 1)) ** 2)


def falling_layer(gt: Tensor, density: Tensor, kernels: Tensor, generator: torch.Generator) -> Tensor:
    """Scatter copies of a kernel of random brightness over a map in [0, 1], (B, 1, H, W)."""
    batch, _, height, width = gt.shape
    radius = kernels.shape[-1] // 2
    # Drawn beyond the border, so that particles also enter from outside the picture.
    shape = (batch, 1, height + 2 * radius, width + 2 * radius)
    seeds = (uniform(generator, *shape) < per_picture(density)) * uniform(generator, *shape, low=0.3)
    return convolve(seeds, kernels)[..., radius : radius + height, radius : radius + width].clamp(0, 1)


@register_degradation("scene")
def snow(gt: Tensor, generator: torch.Generator, severity: Tensor) -> Tensor:
    """Snow of three distances: many specks, fewer flakes, a few large ones out of focus.

    Severity: number of flakes, from about 25 to 230 in a 100 x 100 pixel area, their size
    (by up to half) and a light veil.
    """
    batch = len(gt)
    wind = uniform(generator, batch, low=-0.7, high=0.7)
    size = 1 + 0.5 * severity
    lq = gt + per_picture(0.12 * severity) * (0.9 - gt)
    layers = ((2.0e-3, 0.7, 0.9), (4.5e-4, 1.5, 0.85), (5.0e-5, 3.5, 0.6))
    for density, radius, opacity in layers:
        tilt = wind + uniform(generator, batch, low=-0.2, high=0.2)
        blur = uniform(generator, batch, low=1.0, high=3.0)
        kernels = streak_kernels(radius * size * blur, radius * size * 0.8, tilt, radius=12)
        flakes = falling_layer(gt, density * (1 + 8 * severity), kernels, generator)
        brightness = per_picture(uniform(generator, batch, low=0.85))
        lq = torch.lerp(lq, brightness.expand_as(lq), opacity * flakes)
    return lq.clamp(0, 1)


@register_degradation("scene")
def rain(gt: Tensor, generator: torch.Generator, severity: Tensor) -> Tensor:
    """Rain streaks of three distances over a thin veil, added as light.

    Severity: number of streaks, from about 8 to 80 in a 100 x 100 pixel area, their
    brightness (0.3 to 0.75), and the veil (up to 0.2).
    """
    batch = len(gt)
    wind = uniform(generator, batch, low=-0.6, high=0.6)
    streaks = torch.zeros_like(gt[:, :1])
    layers = ((5.0e-4, 11.0, 0.4), (2.2e-4, 20.0, 0.55), (6.0e-5, 30.0, 0.8))
    for density, length, thickness in layers:
        angle = wind + uniform(generator, batch, low=-0.06, high=0.06)
        lengths = length * uniform(generator, batch, low=0.7, high=1.3)
        widths = thickness * uniform(generator, batch, low=0.8, high=1.2)
        kernels = streak_kernels(lengths, widths, angle, radius=20)
        streaks += falling_layer(gt, density * (1 + 9 * severity), kernels, generator)
    brightness = per_picture((0.3 + 0.45 * severity) * uniform(generator, batch, low=0.8))
    veil = per_picture(0.2 * severity * uniform(generator, batch))
    lq = gt + veil * (0.8 - gt)
    return (lq + brightness * streaks.clamp(0, 1) * (1 - 0.4 * lq)).clamp(0, 1)
