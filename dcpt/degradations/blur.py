"""Blur by camera shake and by defocus, in linear light, as in a camera."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dcpt.degradations.base import GAMMA, register_degradation, scene_window, smooth_field, uniform


def convolve(x: Tensor, kernels: Tensor) -> Tensor:
    """Convolve each picture (B, C, H, W) with its own kernel (B, K, K), K odd, edges replicated."""
    batch, channels, height, width = x.shape
    radius = kernels.shape[-1] // 2
    x = F.pad(x, (radius,) * 4, mode="replicate")
    x = x.reshape(1, batch * channels, *x.shape[-2:])
    weight = kernels.repeat_interleave(channels, dim=0).unsqueeze(1)
    return F.conv2d(x, weight, groups=batch * channels).view(batch, channels, height, width)


def pixel_grid(radius: int, device: torch.device) -> Tensor:
    """Return the integer offsets -radius ... radius as float32."""
    return torch.arange(-radius, radius + 1, device=device, dtype=torch.float32)


def shake_kernels(extent: Tensor, generator: torch.Generator, *, radius: int) -> Tensor:
    """Draw kernels of a hand-held exposure, (B, 2 * radius + 1, 2 * radius + 1), each of sum 1.

    The camera moves along a smooth random path: its direction turns with inertia, its speed
    varies. `extent`, (B,), is the longer side of the path's bounding box in pixels.
    """
    batch, points = len(extent), 96
    turn = torch.randn(batch, points, generator=generator, device=extent.device).cumsum(1)
    bend = 0.03 * uniform(generator, batch, 1) ** 2  # near 0: a line; above: an arc, a hook, a loop
    angle = uniform(generator, batch, 1, high=2 * math.pi) + (bend * turn).cumsum(1)
    speed = 0.3 + uniform(generator, batch, points // 8).repeat_interleave(8, dim=1)
    path = torch.stack((speed * angle.sin(), speed * angle.cos())).cumsum(2)  # (2, B, points)

    # Centred on its centroid: the picture is blurred, not moved.
    path = path - path.mean(2, keepdim=True)
    longer_side = (path.amax(2) - path.amin(2)).amax(0)
    y, x = (path * (extent / longer_side).view(1, -1, 1)).unbind(0)
    # Bilinear splats as a product of two hat functions: deterministic on every device.
    grid = pixel_grid(radius, extent.device)
    hat_y = (1 - (y.unsqueeze(2) - grid).abs()).clamp(min=0)  # (B, points, K)
    hat_x = (1 - (x.unsqueeze(2) - grid).abs()).clamp(min=0)
    kernels = hat_y.transpose(1, 2) @ hat_x
    return kernels / kernels.sum((1, 2), keepdim=True)


def aperture_kernels(blur_radius: Tensor, hexagonal: Tensor, rotation: Tensor, *, radius: int) -> Tensor:
    """Return images of an out-of-focus point, (B, 2 * radius + 1, 2 * radius + 1), each of sum 1.

    A disc, or where `hexagonal` the six-bladed aperture turned by `rotation` radians; the edge
    is anti-aliased over one pixel. `blur_radius`, (B,), in pixels.
    """
    grid = pixel_grid(radius, blur_radius.device)
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    disc = (x**2 + y**2).sqrt().unsqueeze(0)
    blades = rotation.view(-1, 1) + torch.arange(3, device=rotation.device) * (math.pi / 3)
    normals = blades.view(-1, 3, 1, 1)
    hexagon = (x * normals.cos() + y * normals.sin()).abs().amax(1) / math.cos(math.pi / 6)
    distance = torch.where(hexagonal.view(-1, 1, 1), hexagon, disc)
    kernels = (blur_radius.view(-1, 1, 1) + 0.5 - distance).clamp(0, 1)
    return kernels / kernels.sum((1, 2), keepdim=True)


@register_degradation("lens")
def motion_blur(gt: Tensor, generator: torch.Generator, severity: Tensor) -> Tensor:
    """Blur by camera shake along a curved path.

    Severity: longer side of the path = 3 + 18 * severity pixels.
    """
    kernels = shake_kernels(3 + 18 * severity, generator, radius=15)
    return convolve(gt**GAMMA, kernels).clamp(0, 1) ** (1 / GAMMA)


@register_degradation("lens")
def defocus_blur(gt: Tensor, generator: torch.Generator, severity: Tensor) -> Tensor:
    """Blur by a disc or hexagon whose radius varies smoothly over the picture, as depth does.

    Severity: largest radius = 1 + 5 * severity pixels; it falls to 0.3 of that elsewhere.
    """
    batch, _, height, width = gt.shape
    largest = 1 + 5 * severity
    hexagonal = uniform(generator, batch) < 0.5
    rotation = uniform(generator, batch, high=math.pi)
    depth = smooth_field(scene_window(batch, height, width, generator), generator, octaves=1)

    linear, levels = gt**GAMMA, torch.linspace(0.3, 1, 4).tolist()
    position = depth * (len(levels) - 1)
    blurred = torch.zeros_like(gt)
    for index, level in enumerate(levels):
        kernels = aperture_kernels(level * largest, hexagonal, rotation, radius=7)
        share = (1 - (position - index).abs()).clamp(min=0)
        blurred += share * convolve(linear, kernels)
    return blurred.clamp(0, 1) ** (1 / GAMMA)
