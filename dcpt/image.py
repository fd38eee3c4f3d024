"""Pictures in and out: path, bytes, PIL, array or tensor in, RGB batch for the network, the same kind out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dcpt.errors import InvalidImage, OutputError
from dcpt.files import atomic_path
from dcpt.photographs.containers import FORMAT_OF_SUFFIX
from dcpt.photographs.encoding import encode_samples
from dcpt.photographs.metadata import read_metadata
from dcpt.photographs.photograph import open_photograph, read_samples, take_photograph
from dcpt.photographs.samples import reduce_depth, take_samples, to_image, to_pixels, to_samples

GiveBack = Callable[[Tensor], Any]


def open_image(source: str | Path | bytes) -> Image.Image:
    """Read a picture file as an upright PIL image of mode L, LA, RGB or RGBA, 8 bits per channel.

    Args:
        source: Path of the file, or its bytes.

    Returns:
        The picture; `format` names the container it came in.

    Raises:
        InvalidImage: As `dcpt.photographs.photograph.open_photograph`.
    """
    samples, metadata, format = read_samples(source)
    image = to_image(reduce_depth(samples), metadata)
    image.format = format
    return image


def encode_image(image: Image.Image, format: str) -> bytes:
    """Encode a picture with its EXIF data, XMP and colour profile.

    Raises:
        InvalidImage: If it has 32 bits or floats.
        OutputError: If the format cannot hold it, such as transparency in a JPEG.
    """
    samples, metadata = take_samples(image, read_metadata(image))
    return encode_samples(samples, format, metadata)


def write_image(image: Image.Image, path: Path) -> None:
    """Write a picture atomically, in the format of the path's suffix.

    Raises:
        OutputError: If the suffix is unknown, the format cannot hold it or the place is not writable.
    """
    data = encode_image(image, output_format(path))
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def output_format(path: Path) -> str:
    """Return the format that a path's suffix asks for, or raise OutputError."""
    if path.suffix.lower() not in FORMAT_OF_SUFFIX:
        raise OutputError(f"expected an output name ending in one of {', '.join(FORMAT_OF_SUFFIX)}, got {path.name}")
    return FORMAT_OF_SUFFIX[path.suffix.lower()]


def read_picture(image: Any) -> tuple[Tensor, GiveBack]:
    """Turn any kind of picture into a batch for the network, and the way back.

    Args:
        image: A path (given back as PIL image, which has 16 bits for grey only), the bytes of a file
            (given back as bytes in the same format and depth), a PIL image, an array (H, W), (H, W, 3)
            or (H, W, 4) of uint8, uint16 or floats in [0, 1], or a tensor (3, H, W) or (B, 3, H, W) of
            uint8 or floats in [0, 1].

    Returns:
        RGB pictures, (B, 3, H, W), float32 in [0, 1]; and a function from such a batch of the
        same size to the kind that came in. Transparency passes by the network unchanged, grey
        stays grey.

    Raises:
        InvalidImage: If it is none of these.
    """
    if isinstance(image, (bytes, bytearray)):
        photograph = open_photograph(bytes(image))
        return photograph.pixels, photograph.encode
    if isinstance(image, (str, Path, Image.Image)):
        photograph = take_photograph(image) if isinstance(image, Image.Image) else open_photograph(image)
        return photograph.pixels, photograph.to_pil
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if isinstance(image, Tensor):
        return _from_tensor(image)
    raise InvalidImage(f"expected a path, bytes, PIL image, array or tensor, got {type(image).__name__}")


def _from_array(array: np.ndarray) -> tuple[Tensor, GiveBack]:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or array.size == 0:
        raise InvalidImage(f"expected an array (H, W), (H, W, 3) or (H, W, 4), got {array.shape}")
    if array.dtype.name not in ("uint8", "uint16") and array.dtype.kind != "f":
        raise InvalidImage(f"expected uint8, uint16 or floats in [0, 1], got {array.dtype}")
    grey, alpha = array.ndim == 2, array[..., 3:] if array.ndim == 3 and array.shape[2] == 4 else None
    pixels = _in_range(to_pixels(array[..., None] if grey else array))

    def to_array(restored: Tensor) -> np.ndarray:
        samples = to_samples(restored, array.dtype, grey=grey, alpha=alpha)
        return samples[..., 0] if grey else samples

    return pixels, to_array


def _from_tensor(tensor: Tensor) -> tuple[Tensor, GiveBack]:
    if tensor.ndim not in (3, 4) or tensor.shape[-3] != 3 or tensor.numel() == 0:
        raise InvalidImage(f"expected a tensor (3, H, W) or (B, 3, H, W), got {tuple(tensor.shape)}")
    if tensor.dtype != torch.uint8 and not tensor.is_floating_point():
        raise InvalidImage(f"expected uint8 or floats in [0, 1], got {tensor.dtype}")
    scale = 255 if tensor.dtype == torch.uint8 else 1
    pixels = tensor.detach().reshape(-1, *tensor.shape[-3:]).float() / scale
    pixels = _in_range(pixels)

    def to_tensor(restored: Tensor) -> Tensor:
        values = restored.clamp(0, 1) * scale
        values = values.round() if scale > 1 else values
        return values.to(tensor.device, tensor.dtype).view(tensor.shape)

    return pixels, to_tensor


def _in_range(pixels: Tensor) -> Tensor:
    low, high = pixels.min().item(), pixels.max().item()
    # Written so that NaN fails too.
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise InvalidImage(f"expected values in [0, 1], got {low:g} to {high:g}; divide 8-bit values by 255")
    return pixels.clamp_(0, 1)
