"""Samples into picture files: sensible qualities, and all metadata that the container has room for."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from dcpt.errors import OutputError
from dcpt.photographs.color import convert_to_srgb, profile_mode
from dcpt.photographs.containers import register_heif
from dcpt.photographs.metadata import EXIF_PREFIX, Metadata
from dcpt.photographs.png import ZLIB_LEVEL, encode_sixteen_bit_png, insert_chunks
from dcpt.photographs.ppm import encode_sixteen_bit_ppm
from dcpt.photographs.samples import reduce_depth, to_image
from dcpt.photographs.tiff import encode_tiff

_SIXTEEN_BIT_FORMATS = ("PNG", "TIFF", "PPM")
_ALPHA_FORMATS = ("PNG", "WEBP", "TIFF", "AVIF", "GIF", "BMP", "HEIF")
_PROFILE_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "AVIF", "HEIF")
# libavif writes more, but reads no more unless told to.
_LONGEST_SIDE = {"JPEG": 65500, "WEBP": 16383, "GIF": 65535, "AVIF": 32768}
# A segment's length takes two bytes and counts itself; XMP begins with a name of 29 bytes.
_LONGEST_IN_JPEG = {"exif": 65533, "xmp": 65533 - 29, "comment": 65533}
_OPTIONS: dict[str, dict[str, Any]] = {
    # Less would put back some of what was restored; and colour stays as sharp as the network made it.
    "JPEG": {"quality": 95, "subsampling": "4:4:4"},
    "AVIF": {"quality": 90, "subsampling": "4:4:4"},
    "HEIF": {"quality": 95, "chroma": 444},
    "WEBP": {"lossless": True, "exact": True},
}
# Alpha has to come through bit for bit, which only the lossless settings promise.
_ALPHA_OPTIONS = {"AVIF": {"quality": 100}, "HEIF": {"quality": -1}}


def encode_samples(samples: np.ndarray, format: str, metadata: Metadata) -> bytes:
    """Encode a picture as a file.

    Args:
        samples: (H, W, 1 to 4), uint8 or uint16: grey, grey with alpha, RGB or RGBA; PNG, TIFF and PPM keep
            16 bits, others get 8.
        format: One of `dcpt.photographs.containers.FORMATS` or, with pillow-heif, "HEIF". JPEG is as fine as it
            came, of quality 95 at least; WebP is lossless; GIF gets 256 colours of its own, dithered.
        metadata: What to write beside it, as far as the container has room: JPEG has none for EXIF, XMP or
            a comment of more than 64 KB. Where there is none for a colour profile, the colours become sRGB.

    Raises:
        OutputError: If the format cannot hold it, such as transparency in a JPEG.
        MissingExtra: If it is HEIF and pillow-heif is not installed.
    """
    check_shape(samples.shape, format)
    samples = samples if format in _SIXTEEN_BIT_FORMATS else reduce_depth(samples)
    try:
        return _encode(samples, format, metadata)
    except (OSError, ValueError, KeyError, RuntimeError, OverflowError, struct.error) as error:
        raise OutputError(f"cannot store the picture as {format}: {error}; try .png") from None


def check_shape(shape: tuple[int, ...], format: str) -> None:
    """Refuse samples, (H, W, 1 to 4), with transparency or sides that a format has no room for.

    Raises:
        OutputError: If it has not.
        MissingExtra: If it is HEIF and pillow-heif is not installed.
    """
    height, width, channels = shape
    if channels in (2, 4) and format not in _ALPHA_FORMATS:
        raise OutputError(f"cannot store {'RGBA' if channels == 4 else 'LA'} as {format}; try .png")
    longest = _LONGEST_SIDE.get(format)
    if longest and max(height, width) > longest:
        raise OutputError(f"cannot store {width}x{height} as {format}, whose sides end at {longest}; try .png")
    if format == "HEIF":
        register_heif()


def _encode(samples: np.ndarray, format: str, metadata: Metadata) -> bytes:
    deep = samples.dtype == np.uint16
    if format == "TIFF":
        return encode_tiff(samples, metadata)
    if format == "PNG":
        chunks = _png_chunks(metadata)
        if deep:
            return encode_sixteen_bit_png(samples, chunks)
        return insert_chunks(_save(to_image(samples, Metadata()), "PNG", compress_level=ZLIB_LEVEL), chunks)
    if format == "PPM" and deep:
        if metadata.icc_profile:
            raise ValueError("it has no room for the colour profile of 16-bit pictures")
        return encode_sixteen_bit_ppm(samples)
    return _encode_with_pillow(to_image(samples, Metadata()), format, metadata)


def _save(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def _encode_with_pillow(image: Image.Image, format: str, metadata: Metadata) -> bytes:
    profile, options = metadata.icc_profile, dict(_OPTIONS.get(format, {}))
    # A profile for grey says nothing of colours.
    turns_to_color = format in ("WEBP", "AVIF") or (format, image.mode) == ("HEIF", "LA")
    if profile and (format not in _PROFILE_FORMATS or (turns_to_color and profile_mode(profile) == "L")):
        image, metadata = convert_to_srgb(image, profile), replace(metadata, icc_profile=b"")
    if format == "JPEG":
        too_long = [name for name, longest in _LONGEST_IN_JPEG.items() if len(getattr(metadata, name)) > longest]
        metadata = replace(metadata, **dict.fromkeys(too_long, b""))
    if metadata.dpi and format in ("JPEG", "BMP"):
        options["dpi"] = metadata.dpi
    if metadata.comment and format in ("JPEG", "GIF"):
        options["comment"] = metadata.comment
    if format in _PROFILE_FORMATS:
        kept = {"exif": metadata.exif, "icc_profile": metadata.icc_profile, "xmp": metadata.xmp}
        options |= {name: value for name, value in kept.items() if value}
    if format == "JPEG":
        options["quality"] = max(options["quality"], metadata.jpeg_quality)
    if image.mode in ("LA", "RGBA"):
        if format == "BMP":
            return _encode_bmp(image.convert("RGBA"))
        options |= _ALPHA_OPTIONS.get(format, {})
    if format == "GIF":
        image, transparency = _choose_colors(image)
        options |= transparency
    return _save(image, format, **options)


def _encode_bmp(image: Image.Image) -> bytes:
    """Encode an RGBA picture as BMP of version 4, the first with alpha; Pillow writes version 3 and loses it."""
    data, length = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).tobytes("raw", "BGRA"), 14 + 108
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, *image.size, 1, 32, 3, len(data), 2835, 2835, 0, 0) + masks + b"BGRs"
    return struct.pack("<2sIHHI", b"BM", length + len(data), 0, 0, length) + header.ljust(108, b"\0") + data


def _choose_colors(image: Image.Image) -> tuple[Image.Image, dict[str, int]]:
    """Return a picture of at most 256 colours, and how GIF's transparency is to be written."""
    if image.mode == "L":
        return image, {}
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    opaque = image.convert("RGB")
    palette = opaque.quantize(255 if alpha else 256)
    chosen = opaque.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    if alpha is None:
        return chosen, {}
    if any(alpha.histogram()[1:255]):
        raise ValueError("it has no half-transparent pixels")
    chosen.paste(255, mask=alpha.point(lambda value: 255 - value))
    return chosen, {"transparency": 255}


def _png_chunks(metadata: Metadata) -> list[tuple[bytes, bytes]]:
    profile = metadata.icc_profile
    chunks = [(b"iCCP", b"ICC profile\0\0" + zlib.compress(profile))] if profile else []
    # With a profile there is no room for the word that it is sRGB.
    chunks += [chunk for chunk in metadata.chunks if not (profile and chunk[0] == b"sRGB")]
    if metadata.dpi:
        chunks.append((b"pHYs", struct.pack(">IIB", *(round(x / 0.0254) for x in metadata.dpi), 1)))
    if metadata.exif:
        chunks.append((b"eXIf", metadata.exif.removeprefix(EXIF_PREFIX)))
    if metadata.xmp:
        chunks.append((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + metadata.xmp))
    return chunks
