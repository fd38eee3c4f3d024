"""Pictures as arrays of samples, (H, W, 1 to 4), between PIL images and the network's floats."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dcpt.errors import InvalidImage
from dcpt.photographs.color import convert_to_srgb, lab_profile, profile_mode, srgb_profile
from dcpt.photographs.metadata import Metadata

_ROWS = 256  # converted at a time, so that a large photograph needs no second copy in floats


def take_samples(image: Image.Image, metadata: Metadata) -> tuple[np.ndarray, Metadata]:
    """Return the samples of an upright PIL image.

    Returns:
        Grey, grey with alpha, RGB or RGBA, uint8 or, for modes like I;16, uint16; and the metadata, with
        the profile of sRGB for CMYK and Lab.

    Raises:
        InvalidImage: If it has 32 bits or floats, or a mode that is not for pictures.
    """
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)[..., None], metadata  # in the order of bytes of this machine
    if image.mode in ("I", "F"):
        raise InvalidImage(f"expected 8 or 16 bits per channel, got a picture of mode {image.mode}")
    if image.mode in ("CMYK", "LAB"):
        image = convert_to_srgb(image, lab_profile() if image.mode == "LAB" else metadata.icc_profile)
        metadata = replace(metadata, icc_profile=srgb_profile())
    try:
        samples = np.asarray(image.convert(_direct_mode(image, metadata.icc_profile)))
    except ValueError:
        raise InvalidImage(f"expected a picture of a common mode, got mode {image.mode}") from None
    return samples.reshape(image.height, image.width, -1), metadata


def _direct_mode(image: Image.Image, icc_profile: bytes) -> str:
    grey = image.mode in ("1", "L", "LA", "La")
    if image.mode == "P" and profile_mode(icc_profile) != "RGB":
        palette = np.array(image.getpalette("RGB")).reshape(-1, 3)
        grey = bool((palette == palette[:, :1]).all())
    return ("L" if grey else "RGB") + ("A" if image.has_transparency_data else "")


def to_image(samples: np.ndarray, metadata: Metadata) -> Image.Image:
    """Return samples, uint8 or grey uint16, as PIL image with EXIF, profile, XMP and resolution in `info`."""
    image = Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples)
    kept = {name: getattr(metadata, name) for name in ("exif", "icc_profile", "xmp", "dpi")}
    image.info = {name: value for name, value in kept.items() if value}
    return image


def to_pixels(samples: np.ndarray) -> Tensor:
    """Return the colours of samples as (1, 3, H, W), float32: integers in [0, 1], floats as they are."""
    height, width, channels = samples.shape
    pixels = torch.empty(1, 3, height, width)
    for top in range(0, height, _ROWS):
        rows = samples[top : top + _ROWS, :, : 1 if channels < 3 else 3].astype(np.float32)
        rows /= _full(samples.dtype)
        pixels[0, :, top : top + _ROWS] = torch.from_numpy(rows).permute(2, 0, 1)
    return pixels


def to_samples(pixels: Tensor, dtype: np.dtype | str, *, grey: bool, alpha: np.ndarray | None) -> np.ndarray:
    """Return a picture as samples.

    Args:
        pixels: (1, 3, H, W); clamped to [0, 1].
        dtype: Of the samples: integers are rounded, and of full range.
        grey: Average the channels into one.
        alpha: A last channel, (H, W, 1), of the same type.
    """
    height, width = pixels.shape[-2:]
    channels = 1 if grey else 3
    samples = np.empty((height, width, channels + (alpha is not None)), dtype)
    for top in range(0, height, _ROWS):
        rows = pixels[0, :, top : top + _ROWS].detach().clamp(0, 1).float().cpu().numpy()
        rows = (rows.mean(0, keepdims=True) if grey else rows) * np.float32(_full(samples.dtype))
        rows = rows.round() if samples.dtype.kind == "u" else rows
        samples[top : top + _ROWS, :, :channels] = rows.transpose(1, 2, 0)
    if alpha is not None:
        samples[..., channels:] = alpha
    return samples


def reduce_depth(samples: np.ndarray) -> np.ndarray:
    """Round samples of uint16 to uint8; those of uint8 are returned as they are."""
    if samples.dtype == np.uint8:
        return samples
    reduced = np.empty(samples.shape, np.uint8)
    for top in range(0, len(samples), _ROWS):
        reduced[top : top + _ROWS] = (samples[top : top + _ROWS].astype(np.uint32) + 128) // 257
    return reduced


def _full(dtype: np.dtype) -> int:
    return np.iinfo(dtype).max if dtype.kind == "u" else 1
