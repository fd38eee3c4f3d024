"""What a photograph carries besides its pixels: EXIF, colour profile, XMP, resolution, comments."""

from __future__ import annotations

import math
import re
import struct
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from PIL import ExifTags, Image

from dcpt.photographs.png import COLOR_CHUNKS, read_chunks

EXIF_PREFIX = b"Exif\0\0"
# What a TIFF directory says about the photograph; the other tags say how its pixels are stored.
DESCRIPTIVE_TAGS = (
    270, 271, 272, 305, 306, 315, 316, 18246, 33432, 33723, 34377, 40091, 40092, 40093, 40094, 40095,
    ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo,
)  # fmt: skip
_RESOLUTION_TAGS = ExifTags.Base.XResolution, ExifTags.Base.YResolution
# Sum of the luminance table of JPEG's annex K, which quality 50 stands for.
_ANNEX_K_SUM = 3688


@dataclass(frozen=True)
class Metadata:
    """Data about a photograph that lies upright.

    Attributes:
        exif: A TIFF block behind `EXIF_PREFIX`, orientation 1, no thumbnail; empty if there is none.
        icc_profile: The colour space that the pixels are in; empty means sRGB.
        xmp: An XML packet.
        comment: Text of a JPEG or GIF.
        dpi: Resolution in pixels per inch, across and down.
        chunks: Name and content of PNG chunks with text and colour space.
        jpeg_quality: What quality a JPEG was stored with, about; 0 for other formats.
    """

    exif: bytes = b""
    icc_profile: bytes = b""
    xmp: bytes = b""
    comment: bytes = b""
    dpi: tuple[float, float] | None = None
    chunks: tuple[tuple[bytes, bytes], ...] = ()
    jpeg_quality: int = 0

    def strip(self) -> Metadata:
        """Leave only what the pixels need to look right: colour space and resolution."""
        colors = tuple(chunk for chunk in self.chunks if chunk[0] in COLOR_CHUNKS)
        return replace(self, exif=b"", xmp=b"", comment=b"", chunks=colors)


def read_metadata(image: Image.Image, stream: BinaryIO | None = None) -> Metadata:
    """Read the metadata of a picture that has been turned upright, and of the PNG file it came from."""
    comment = image.info.get("comment", b"")
    return Metadata(
        exif=_read_exif(image),
        icc_profile=_as_bytes(image.info.get("icc_profile")),
        xmp=re.sub(rb"(tiff:Orientation(?:=[\"']|>))[2-8]", rb"\g<1>1", _as_bytes(image.info.get("xmp"))),
        comment=comment.encode() if isinstance(comment, str) else _as_bytes(comment),
        dpi=_read_dpi(image),
        chunks=read_chunks(stream) if stream and image.format == "PNG" else (),
        jpeg_quality=_estimate_quality(getattr(image, "quantization", None)),
    )


def _as_bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else b""


def _read_exif(image: Image.Image) -> bytes:
    block = _as_bytes(image.info.get("exif")).removeprefix(EXIF_PREFIX)
    try:
        # A TIFF has it in its own directory, and a PNG may have it as text.
        block = reset_orientation(block) if block else _select_exif(image.getexif())
        Image.Exif().load(block)
    except Exception:  # Pillow's reader raises many kinds; no picture is refused for its EXIF
        return b""
    return EXIF_PREFIX + block if block else b""


def _select_exif(found: Image.Exif) -> bytes:
    exif = Image.Exif()
    for tag in DESCRIPTIVE_TAGS:
        if value := found.get_ifd(tag) if tag in iter(ExifTags.IFD) else found.get(tag):
            exif[tag] = value
    return exif.tobytes().removeprefix(EXIF_PREFIX) if len(exif) else b""


def reset_orientation(block: bytes) -> bytes:
    """Set the orientation of an EXIF block to upright and drop its thumbnail; the rest stays bit for bit.

    Pillow would write the block anew, and camera makers' notes do not survive a change of place.
    """
    order, patched = "<" if block[:2] == b"II" else ">", bytearray(block)
    with suppress(struct.error):
        (start,) = struct.unpack_from(f"{order}I", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, start)
        end = start + 2 + 12 * count
        for entry in range(start + 2, end, 12):
            if struct.unpack_from(f"{order}H", block, entry) == (ExifTags.Base.Orientation,):
                struct.pack_into(f"{order}HIHH", patched, entry + 2, 3, 1, 1, 0)
        # The directory after this one is the thumbnail's, which shows the picture as it was.
        struct.pack_into(f"{order}I", patched, end, 0)
    return bytes(patched)


def _read_dpi(image: Image.Image) -> tuple[float, float] | None:
    tags = getattr(image, "tag_v2", None)
    # Pillow takes a TIFF that does not tell for one of 1 dpi.
    if tags is not None and not all(tag in tags for tag in _RESOLUTION_TAGS):
        return None
    try:
        across, down = (float(value) for value in image.info.get("dpi"))
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if all(math.isfinite(x) and 1 <= x < 65536 for x in (across, down)) else None


def _estimate_quality(tables: dict[int, list[int]] | None) -> int:
    if not tables:
        return 0
    scale = 100 * sum(tables[min(tables)]) / _ANNEX_K_SUM
    quality = (200 - scale) / 2 if scale <= 100 else 5000 / scale
    return min(100, max(1, math.ceil(quality)))
