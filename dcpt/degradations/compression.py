"""JPEG compression: the real codec on the CPU, the same arithmetic in batches elsewhere."""

from __future__ import annotations

import io
import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dcpt.degradations.base import register_degradation

# ITU-T T.81, annex K: the quantisation tables of quality 50.
_LUMA = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""
_CHROMA = """17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99"""


@register_degradation("file")
def jpeg(gt: Tensor, generator: torch.Generator, severity: Tensor) -> Tensor:
    """Compress and decompress as JPEG with halved chroma (4:2:0).

    Severity: quality = 50 - 40 * severity, rounded, on the usual scale of 1 to 100.
    """
    quality = torch.round(50 - 40 * severity)
    if gt.device.type == "cpu":
        return jpeg_codec(gt, quality)
    return jpeg_batched(gt, quality)


def jpeg_codec(gt: Tensor, quality: Tensor) -> Tensor:
    """Send each picture (B, 3, H, W) through libjpeg at its quality, (B,)."""
    pixels = (gt.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    decoded = []
    for picture, q in zip(pixels, quality.tolist()):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "jpeg", quality=int(q), subsampling="4:2:0")
        decoded.append(np.asarray(Image.open(buffer)))
    lq = torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2)
    return lq.to(gt) / 255


def jpeg_batched(gt: Tensor, quality: Tensor) -> Tensor:
    """Do what `jpeg_codec` does in tensor arithmetic, on any device, for a whole batch.

    Agrees with libjpeg within 1/255 on average; single pixels may differ by a few levels
    where its integer transform rounds a coefficient the other way.
    """
    height, width = gt.shape[-2:]
    rgb = (gt.clamp(0, 1) * 255).round()
    rgb = F.pad(rgb, (0, -width % 16, 0, -height % 16), mode="replicate")
    luma, chroma = rgb_to_ycbcr(rgb)
    chroma = F.avg_pool2d(chroma, 2).round()
    luma = quantize_blocks(luma, quality_table(_LUMA, quality))
    chroma = quantize_blocks(chroma, quality_table(_CHROMA, quality))
    # libjpeg's "fancy upsampling" is the triangle filter, hence bilinear interpolation.
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False).round()
    return ycbcr_to_rgb(luma, chroma)[..., :height, :width].round().clamp(0, 255) / 255


def quality_table(base: str, quality: Tensor) -> Tensor:
    """Scale a table of quality 50 to each picture's quality: (B,) -> (B, 8, 8)."""
    table = torch.tensor([float(step) for step in base.split()], device=quality.device).view(8, 8)
    scale = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)
    return ((table * scale.view(-1, 1, 1) + 50) / 100).floor().clamp(1, 255)


def quantize_blocks(plane: Tensor, table: Tensor) -> Tensor:
    """Round the 8x8 cosine coefficients of (B, C, H, W) to the steps in (B, 8, 8) and invert."""
    batch, channels, height, width = plane.shape
    k = torch.arange(8, device=plane.device, dtype=plane.dtype)
    dct = torch.cos((2 * k + 1) * k.unsqueeze(1) * math.pi / 16) / 2
    dct[0] /= math.sqrt(2)
    blocks = plane.view(batch, channels, height // 8, 8, width // 8, 8).transpose(3, 4) - 128
    step = table.view(batch, 1, 1, 1, 8, 8)
    coefficients = torch.round(dct @ blocks @ dct.T / step) * step
    blocks = (dct.T @ coefficients @ dct + 128).round().clamp(0, 255)
    return blocks.transpose(3, 4).reshape(plane.shape)


def rgb_to_ycbcr(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """Convert (B, 3, H, W) in [0, 255] to luma (B, 1, H, W) and chroma (B, 2, H, W), as JFIF."""
    r, g, b = rgb.split(1, dim=1)
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    chroma = torch.cat(((b - luma) / 1.772, (r - luma) / 1.402), dim=1) + 128
    return luma.round(), chroma.round().clamp(0, 255)


def ycbcr_to_rgb(luma: Tensor, chroma: Tensor) -> Tensor:
    """Invert `rgb_to_ycbcr` up to rounding."""
    cb, cr = (chroma - 128).split(1, dim=1)
    green = luma - (0.299 * 1.402 * cr + 0.114 * 1.772 * cb) / 0.587
    return torch.cat((luma + 1.402 * cr, green, luma + 1.772 * cb), dim=1)
