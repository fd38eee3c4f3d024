"""PPM of up to 16 bits, which Pillow reads number by number, and cuts to 8 bits in colour."""

from __future__ import annotations

import math
from typing import BinaryIO

import numpy as np
from PIL import Image

from dcpt.errors import InvalidImage

_ROWS = 256  # scaled at a time


def has_raw_numbers(image: Image.Image) -> bool:
    """Tell whether a picture just identified is a binary PPM of another largest value than 255.

    Raises:
        InvalidImage: If it has more than 8 bits and is written out in digits.
    """
    if image.format != "PPM" or image.mode not in ("L", "I", "RGB"):
        return False
    decoder, largest = image.tile[0][0], _largest_value(image)
    if decoder == "ppm_plain" and largest > 255:
        raise InvalidImage("expected 8 bits in a PPM written out in digits, got more; store it as PNG")
    return decoder != "ppm_plain" and largest != 255


def _largest_value(image: Image.Image) -> int:
    arguments = image.tile[0][3]
    return {"L": 255, "RGB": 255, "I;16B": 65535}[arguments] if isinstance(arguments, str) else arguments[1]


def read_ppm(image: Image.Image, stream: BinaryIO, *, allow_truncated: bool = False) -> np.ndarray:
    """Return the samples, (H, W, 1 or 3), scaled to the full range of uint8 or uint16.

    Raises:
        OSError: If the file is too short and `allow_truncated` is off.
    """
    largest, shape = _largest_value(image), (image.height, image.width, len(image.getbands()))
    stored, wanted = (">u2", np.uint16) if largest > 255 else ("u1", np.uint8)
    size = math.prod(shape) * np.dtype(stored).itemsize
    stream.seek(image.tile[0][2])
    data = stream.read(size)
    if len(data) < size and not allow_truncated:
        raise OSError("the file is truncated")
    numbers, samples = np.frombuffer(data.ljust(size, b"\0"), stored).reshape(shape), np.empty(shape, wanted)
    for top in range(0, len(samples), _ROWS):
        rows = numbers[top : top + _ROWS].astype(np.uint32).clip(max=largest)
        samples[top : top + _ROWS] = (rows * np.uint32(np.iinfo(wanted).max) + np.uint32(largest // 2)) // largest
    return samples


def encode_sixteen_bit_ppm(samples: np.ndarray) -> bytes:
    """Encode samples, (H, W, 1 or 3), uint16."""
    height, width, channels = samples.shape
    return f"P{6 if channels == 3 else 5}\n{width} {height}\n65535\n".encode() + samples.astype(">u2").tobytes()
