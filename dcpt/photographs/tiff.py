"""What Pillow cannot do with TIFF: write 16-bit colour, and EXIF and XMP side by side."""

from __future__ import annotations

import io
import zlib

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from PIL.TiffTags import LONG, TAGS_V2_GROUPS

from dcpt.photographs.metadata import DESCRIPTIVE_TAGS, Metadata
from dcpt.photographs.png import ZLIB_LEVEL

_ROWS = 256
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _OFFSETS, _CHANNELS, _ROWS_PER_STRIP, _LENGTHS = (
    256, 257, 258, 259, 262, 273, 277, 278, 279
)  # fmt: skip
_X_DPI, _Y_DPI, _UNIT, _PREDICTOR, _EXTRA, _XMP, _ICC = 282, 283, 296, 317, 338, 700, 34675


def encode_tiff(samples: np.ndarray, metadata: Metadata) -> bytes:
    """Encode samples, (H, W, 1 to 4), uint8 or uint16: grey, grey with alpha, RGB or RGBA; deflated."""
    height, width, channels = samples.shape
    strips = [zlib.compress(_difference(samples[top : top + _ROWS]), ZLIB_LEVEL) for top in range(0, height, _ROWS)]
    lengths = [len(strip) for strip in strips]
    directory = _describe(metadata)
    directory[_WIDTH], directory[_HEIGHT], directory[_ROWS_PER_STRIP] = width, height, _ROWS
    directory[_BITS], directory[_CHANNELS] = (samples.itemsize * 8,) * channels, channels
    directory[_COMPRESSION], directory[_PREDICTOR] = 8, 2
    directory[_PHOTOMETRIC] = 2 if channels > 2 else 1
    if channels in (2, 4):
        directory[_EXTRA] = 2  # alpha that the colours are not multiplied with
    # Pillow adds where the directory ends.
    directory[_OFFSETS] = tuple(sum(lengths[:index]) for index in range(len(lengths)))
    directory[_LENGTHS] = tuple(lengths)
    directory.tagtype[_OFFSETS] = directory.tagtype[_LENGTHS] = LONG
    head = io.BytesIO()
    directory.save(head)
    return b"".join([head.getvalue(), *strips])


def _difference(rows: np.ndarray) -> bytes:
    difference = rows.astype(rows.dtype.newbyteorder("<"))
    difference[:, 1:] -= rows[:, :-1]
    return difference.tobytes()


def _describe(metadata: Metadata) -> ImageFileDirectory_v2:
    directory, exif = ImageFileDirectory_v2(), Image.Exif()
    exif.load(metadata.exif)
    for tag in DESCRIPTIVE_TAGS:
        if value := exif.get_ifd(tag) if tag in TAGS_V2_GROUPS else exif.get(tag):
            directory[tag] = value
    if metadata.dpi:
        directory[_X_DPI], directory[_Y_DPI], directory[_UNIT] = *metadata.dpi, 2
    if metadata.xmp:
        directory[_XMP] = metadata.xmp
    if metadata.icc_profile:
        directory[_ICC] = metadata.icc_profile
    return directory
