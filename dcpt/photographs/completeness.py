"""Whether a picture file holds as much as its header claims: Pillow fills up what is missing, and says nothing."""

from __future__ import annotations

import io
import os
import struct
import zlib
from typing import BinaryIO

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from dcpt.errors import InvalidImage

_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
# First column and row of the seven passes of an interlaced PNG, and the steps.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_MEGABYTE = 1 << 20


def check_claim(image: Image.Image, stream: BinaryIO) -> None:
    """Compare the size in a header just read with what else there is, before memory is asked for.

    Raises:
        InvalidImage: If a JPEG is too short, or a TIFF has too few strips or tiles.
    """
    if image.format == "JPEG":
        blocks = -(-image.width // 8) * -(-image.height // 8)
        # Huffman codes take a bit at least: for each block's mean and, unless progressive, for its end.
        bits = blocks if image.info.get("progressive") else 2 * blocks
        if stream.seek(0, os.SEEK_END) * 8 < bits:
            raise _incomplete(image)
    if image.format == "TIFF":
        tags = image.tag_v2
        width, height = tags[256], tags[257]
        if 324 in tags:  # tiles
            parts, needed = len(tags[324]), -(-width // tags[322]) * -(-height // tags[323])
        else:
            parts, needed = len(tags[273]), -(-height // tags.get(278, height))
        if parts < needed:
            raise _incomplete(image)


def check_content(image: Image.Image, stream: BinaryIO) -> None:
    """Look at the end of a picture just loaded, not yet turned; if it may be filled up, count what there is.

    Raises:
        InvalidImage: If a PNG or a sequential JPEG ends too early.
    """
    if image.format not in ("PNG", "JPEG") or image.info.get("progressive"):
        return
    # Of an interlaced picture either of the last two rows comes last.
    rows = [np.asarray(image.crop((0, y, image.width, y + 1))) for y in range(max(0, image.height - 2), image.height)]
    if image.format == "PNG" and not all(row.any() for row in rows) and not _png_is_whole(stream):
        raise _incomplete(image)
    if image.format == "JPEG" and (rows[-1] == 128).all() and not _jpeg_is_whole(stream):
        raise _incomplete(image)


def _incomplete(image: Image.Image) -> InvalidImage:
    return InvalidImage(f"expected a whole {image.format} of {image.width}x{image.height}, got too little data for it")


def _png_is_whole(stream: BinaryIO) -> bool:
    stream.seek(16)
    width, height, bits, kind, _, _, interlaced = struct.unpack(">IIBBBBB", stream.read(13))
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    sizes = [(-(-max(0, width - x) // dx), -(-max(0, height - y) // dy)) for x, y, dx, dy in passes]
    missing = sum(h * (1 + -(-w * bits * _PNG_CHANNELS[kind] // 8)) for w, h in sizes if w)
    stream.seek(8)
    inflater = zlib.decompressobj()
    while missing > 0 and len(head := stream.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        data = stream.read(length)
        stream.seek(4, os.SEEK_CUR)
        while name == b"IDAT" and data and missing > 0 and not inflater.eof:
            missing -= len(inflater.decompress(data, _MEGABYTE))
            data = inflater.unconsumed_tail
    return missing <= len(inflater.flush())


def _jpeg_is_whole(stream: BinaryIO) -> bool:
    """Decode once more without the end marker: libjpeg then asks for more data instead of making grey."""
    stream.seek(0)
    data, position = stream.read(), 2
    while data[position + 1] != 0xDA:  # the segments before the start of the scan
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    # It reads a few bytes ahead.
    cut = data[: data.find(b"\xff\xd9", position)] + bytes(16)
    try:
        JpegImageFile(io.BytesIO(cut)).load()
    except OSError:
        return False
    return True
