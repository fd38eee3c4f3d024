"""What Pillow cannot do with PNG: write 16-bit colour, and keep the chunks with text and colour space."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np

COLOR_CHUNKS = (b"gAMA", b"cHRM", b"sRGB", b"cICP")
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
# XMP and EXIF, which may know of the orientation, are kept elsewhere.
_OTHER_TEXT = (
    b"XML:com.adobe.xmp\0",
    b"Raw profile type exif\0",
    b"Raw profile type APP1\0",
    b"Raw profile type xmp\0",
)
_COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # by number of channels
_HEADER_END = 33  # signature and IHDR
# Photographs get at most 7 % smaller at the default of 6, which takes up to seven times as long.
ZLIB_LEVEL = 4
_ROWS = 256


def read_chunks(stream: BinaryIO) -> tuple[tuple[bytes, bytes], ...]:
    """Return name and content of a PNG file's chunks with text and colour space."""
    kept = []
    stream.seek(8)
    while len(head := stream.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        data = stream.read(length) if name in COLOR_CHUNKS + _TEXT_CHUNKS else b""
        if data and len(data) == length and not data.startswith(_OTHER_TEXT):
            kept.append((name, data))
        stream.seek(length - len(data) + 4, 1)
    return tuple(kept)


def insert_chunks(png: bytes, chunks: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Put chunks behind the header of a PNG file, where all of them may stand."""
    return b"".join([png[:_HEADER_END], *(_chunk(name, data) for name, data in chunks), png[_HEADER_END:]])


def encode_sixteen_bit_png(samples: np.ndarray, chunks: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Encode samples, (H, W, 1 to 4), uint16: grey, grey with alpha, RGB or RGBA; with more chunks."""
    height, width, channels = samples.shape
    header = struct.pack(">IIBBBBB", width, height, 16, _COLOR_TYPES[channels], 0, 0, 0)
    compressor, parts = zlib.compressobj(ZLIB_LEVEL), []
    for top in range(0, height, _ROWS):
        rows = samples[top : top + _ROWS].astype(">u2").reshape(-1, width * channels).view(np.uint8)
        filtered = np.ones((len(rows), rows.shape[1] + 1), np.uint8)  # each row begins with its filter: 1, Sub
        filtered[:, 1:] = rows
        filtered[:, 1 + 2 * channels :] -= rows[:, : -2 * channels]
        parts.append(compressor.compress(filtered))
    parts.append(compressor.flush())
    chunks = [(b"IHDR", header), *chunks, *((b"IDAT", part) for part in parts if part), (b"IEND", b"")]
    return b"".join([b"\x89PNG\r\n\x1a\n", *(_chunk(name, data) for name, data in chunks)])


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))
