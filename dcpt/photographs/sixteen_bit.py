"""Reading 16 bits per channel, of which Pillow silently drops 8 in all but plain grey."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
from PIL import Image

from dcpt.errors import InvalidImage
from dcpt.photographs.containers import GreyAlphaTiff, identify, load_upright

_BITS, _PHOTOMETRIC, _PLANAR, _EXTRA = 258, 262, 284, 338
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _INTERLEAVED, _PREMULTIPLIED = 0, 1, 2, 1, 1


def has_sixteen_bits(image: Image.Image) -> bool:
    """Tell whether a PNG or TIFF just identified has 16 bits per channel.

    Raises:
        InvalidImage: If its samples are of a kind that cannot be read without loss.
    """
    if image.format == "PNG":
        return _raw_mode(image.tile[0]).endswith("16B")
    bits = max(image.tag_v2.get(_BITS, (1,))) if image.format == "TIFF" else 8
    if bits <= 8:
        return False
    tags = image.tag_v2
    if (
        bits != 16
        or image.mode in ("I", "F")
        or tags.get(_PHOTOMETRIC) not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB)
        or tags.get(_PLANAR, _INTERLEAVED) != _INTERLEAVED
        or tags.get(_EXTRA, (0,))[0] == _PREMULTIPLIED
    ):
        raise InvalidImage(
            "expected a TIFF of 8 bits per channel, or of 16 in grey or interleaved RGB without premultiplied alpha, "
            f"got {bits} bits of mode {image.mode}"
        )
    return True


def read_sixteen_bits(image: Image.Image, stream: BinaryIO, *, allow_truncated: bool = False) -> np.ndarray:
    """Read all bits of a picture: Pillow decodes it twice, for the high and for the low bytes.

    Args:
        image: A picture of 16 bits per channel just identified; loaded when this returns.
        stream: The file it was identified in.
        allow_truncated: Take what is there of a damaged file.

    Returns:
        Samples, (H, W, 1 to 4), uint16: grey, grey with alpha, RGB or RGBA.
    """
    load = functools.partial(load_upright, stream=stream, allow_truncated=allow_truncated)
    if image.mode.startswith("I;16"):
        load(image)
        samples = np.asarray(image).astype(np.uint16)[..., None]
    elif isinstance(image, GreyAlphaTiff):
        order = "=" if image.tile[0].codec_name == "libtiff" else {b"II": "<", b"MM": ">"}[image.tag_v2.prefix]
        load(image)
        samples = np.asarray(image).view(f"{order}u2").astype(np.uint16)
    elif _raw_mode(image.tile[0]) == "LA;16B":
        # Pillow has no mode for the low bytes; as RGBA the four bytes of a pixel stay as they are.
        image.tile = [tile._replace(args="RGBA") for tile in image.tile]
        load(image)
        samples = np.asarray(image).view(">u2").astype(np.uint16)
    else:
        samples = _read_two_bytes(image, stream, load)
    if image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        samples[..., 0] ^= 65535
    key = image.info.get("transparency")
    return samples if key is None else _add_alpha(samples, key)


def _read_two_bytes(image: Image.Image, stream: BinaryIO, load: Callable[..., None]) -> np.ndarray:
    low = identify(stream)
    low.tile = [tile._replace(args=_swap_order(tile)) for tile in low.tile]
    load(image)
    samples = np.asarray(image).astype(np.uint16)
    samples <<= 8
    load(low)
    samples |= np.asarray(low)
    return samples


def _raw_mode(tile: tuple) -> str:
    return tile[3] if isinstance(tile[3], str) else tile[3][0]


def _swap_order(tile: tuple) -> str | tuple:
    """Name the other order of bytes, so that Pillow takes the low ones for the high ones."""
    raw_mode = _raw_mode(tile)
    order = raw_mode[-1].replace("N", "L" if sys.byteorder == "little" else "B")
    swapped = raw_mode[:-1] + {"L": "B", "B": "L"}[order]
    return swapped if isinstance(tile[3], str) else (swapped, *tile[3][1:])


def _add_alpha(samples: np.ndarray, key: int | tuple[int, ...]) -> np.ndarray:
    """Append an alpha channel to samples of which one colour is the transparent one."""
    opaque = (samples != np.array(key, np.uint16)).any(axis=2, keepdims=True)
    return np.concatenate([samples, opaque * np.uint16(65535)], axis=2)
