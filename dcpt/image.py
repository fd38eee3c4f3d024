"""Pictures in and out: path, bytes, PIL, array or tensor in, RGB batch for the network, the same kind out."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from dcpt.errors import InvalidImage, OutputError
from dcpt.files import atomic_path

# By content, never by suffix; an EPS in disguise would start Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF")
FORMAT_OF_SUFFIX = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP",
    ".tif": "TIFF", ".tiff": "TIFF", ".gif": "GIF", ".ppm": "PPM", ".avif": "AVIF",
}  # fmt: skip
_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": "4:4:4"},
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 90},
}
_DIRECT_MODES = ("L", "RGB", "RGBA")

GiveBack = Callable[[Tensor], Any]


def open_image(source: str | Path | bytes) -> Image.Image:
    """Decode a picture file and turn it upright, as its EXIF orientation says.

    Args:
        source: Path of the file, or its bytes.

    Returns:
        The picture in its own mode; `format` names the container it came in.

    Raises:
        InvalidImage: If it is missing, empty, damaged, too large or not a picture.
    """
    name = "the bytes given" if isinstance(source, bytes) else str(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
                upright = ImageOps.exif_transpose(image)
                # MPO is what some phones call a JPEG with a second, hidden picture.
                upright.format = "JPEG" if image.format == "MPO" else image.format
                return upright
    except FileNotFoundError:
        raise InvalidImage(f"expected a picture, found no file at {name}") from None
    except IsADirectoryError:
        raise InvalidImage(f"expected a picture file, got the folder {name}") from None
    except UnidentifiedImageError:
        raise InvalidImage(f"expected a picture ({', '.join(FORMATS)}), got something else in {name}") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise InvalidImage(f"expected at most {Image.MAX_IMAGE_PIXELS} pixels, got more in {name}") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise InvalidImage(f"cannot read the picture in {name}: {error}") from None


def encode_image(image: Image.Image, format: str) -> bytes:
    """Encode a picture with its EXIF data and colour profile.

    Raises:
        OutputError: If the format cannot hold it, such as transparency in a JPEG.
    """
    kept = {key: image.info[key] for key in ("exif", "icc_profile") if image.info.get(key)}
    buffer = io.BytesIO()
    try:
        image.save(buffer, format, **_SAVE_OPTIONS.get(format, {}), **kept)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise OutputError(f"cannot store a picture of mode {image.mode} as {format}: {error}; try .png") from None
    return buffer.getvalue()


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
        image: A path (given back as PIL image), the bytes of a file (given back as bytes in the
            same format), a PIL image, an array (H, W), (H, W, 3) or (H, W, 4) of uint8, uint16
            or floats in [0, 1], or a tensor (3, H, W) or (B, 3, H, W) of uint8 or floats in [0, 1].

    Returns:
        RGB pictures, (B, 3, H, W), float32 in [0, 1]; and a function from such a batch of the
        same size to the kind that came in. Transparency passes by the network unchanged, grey
        stays grey.

    Raises:
        InvalidImage: If it is none of these.
    """
    if isinstance(image, (str, Path)):
        return _from_pil(open_image(image))
    if isinstance(image, (bytes, bytearray)):
        return _from_bytes(bytes(image))
    if isinstance(image, Image.Image):
        return _from_pil(_upright(image))
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if isinstance(image, Tensor):
        return _from_tensor(image)
    raise InvalidImage(f"expected a path, bytes, PIL image, array or tensor, got {type(image).__name__}")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise InvalidImage(f"cannot read the picture given: {error}") from None


def _from_bytes(data: bytes) -> tuple[Tensor, GiveBack]:
    image = open_image(data)
    pixels, give_back = _from_pil(image)
    return pixels, lambda restored: encode_image(give_back(restored), image.format or "PNG")


def _from_pil(image: Image.Image) -> tuple[Tensor, GiveBack]:
    if image.mode.startswith("I;16"):
        array = np.asarray(image).astype(np.uint16)  # in the order of bytes of this machine
    elif image.mode in ("I", "F"):
        raise InvalidImage(f"expected 8 or 16 bits per channel, got a picture of mode {image.mode}")
    else:
        array = np.asarray(_to_direct_mode(image))
    pixels, give_back = _from_array(array)
    # A profile describes the colour space it came with; CMYK comes back as RGB.
    kept = ("exif",) if image.mode == "CMYK" else ("exif", "icc_profile")

    def to_pil(restored: Tensor) -> Image.Image:
        result = Image.fromarray(give_back(restored))
        result = result.convert("LA") if image.mode == "LA" else result
        result.info = {key: image.info[key] for key in kept if key in image.info}
        return result

    return pixels, to_pil


def _to_direct_mode(image: Image.Image) -> Image.Image:
    if image.mode == "1":
        return image.convert("L")
    opaque = image.mode if image.mode in _DIRECT_MODES else "RGB"
    wanted = "RGBA" if image.has_transparency_data else opaque
    try:
        return image if image.mode == wanted else image.convert(wanted)
    except ValueError:
        raise InvalidImage(f"expected a picture of a common mode, got mode {image.mode}") from None


def _from_array(array: np.ndarray) -> tuple[Tensor, GiveBack]:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or array.size == 0:
        raise InvalidImage(f"expected an array (H, W), (H, W, 3) or (H, W, 4), got {array.shape}")
    scale = {"uint8": 255, "uint16": 65535}.get(array.dtype.name, 1)
    if scale == 1 and array.dtype.kind != "f":
        raise InvalidImage(f"expected uint8, uint16 or floats in [0, 1], got {array.dtype}")
    grey, alpha = array.ndim == 2, array[..., 3:] if array.ndim == 3 else None
    colour = np.repeat(array[..., None], 3, axis=2) if grey else array[..., :3]
    pixels = torch.from_numpy(colour.astype(np.float32) / scale).permute(2, 0, 1).unsqueeze(0)
    pixels = _in_range(pixels)

    def to_array(restored: Tensor) -> np.ndarray:
        values = restored[0].clamp(0, 1).permute(1, 2, 0).cpu().double().numpy() * scale
        values = values.mean(2) if grey else values
        values = (values.round() if scale > 1 else values).astype(array.dtype)
        return values if grey else np.concatenate((values, alpha), axis=2)

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
    return pixels.clamp(0, 1)
