"""Picture files, opened with suspicion: by content, one still picture each, never too large, never a device."""

from __future__ import annotations

import functools
import io
import os
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from dcpt.errors import DcptError, InvalidImage, MissingExtra
from dcpt.photographs.completeness import check_claim, check_content

# By content, never by suffix; an EPS in disguise would start Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF")
FORMAT_OF_SUFFIX = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".webp": "WEBP",
    ".bmp": "BMP", ".dib": "BMP", ".tif": "TIFF", ".tiff": "TIFF", ".gif": "GIF", ".avif": "AVIF",
    ".ppm": "PPM", ".pgm": "PPM", ".pbm": "PPM", ".pnm": "PPM", ".heic": "HEIF", ".heif": "HEIF",
}  # fmt: skip
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_BYTES_PER_PIXEL = 12  # no file of a picture that can be read here needs more
_BITS, _PHOTOMETRIC, _CHANNELS, _EXTRA = 258, 262, 277, 338
_AS_RGBA = {_BITS: (8, 8, 8, 8), _PHOTOMETRIC: 2, _CHANNELS: 4, _EXTRA: (2,)}
# Filters of warnings belong to the whole process, not to a thread.
_FILTERS = threading.Lock()


@contextmanager
def open_stream(source: str | Path | bytes) -> Iterator[BinaryIO]:
    """Yield the content of a picture file; whatever goes wrong while it is read is an InvalidImage of one line.

    Raises:
        InvalidImage: If it is missing, empty, too large, no regular file or not readable.
    """
    name = "the bytes given" if isinstance(source, bytes) else str(source)
    name = name if name.isprintable() else repr(name)
    if isinstance(source, bytes):
        _check_size(len(source), name)
    else:
        _check_file(source, name)
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as stream:
            yield stream
    except InvalidImage as error:
        raise InvalidImage(f"{error} in {name}") from None
    except DcptError:
        raise
    except UnidentifiedImageError:
        raise InvalidImage(f"expected a picture ({', '.join(FORMATS)}), got something else in {name}") from None
    except Image.DecompressionBombError:
        raise InvalidImage(f"expected at most {Image.MAX_IMAGE_PIXELS} pixels, got more in {name}") from None
    except MemoryError:
        raise InvalidImage(f"expected a picture that fits into memory, got a larger one in {name}") from None
    except Exception as error:  # Pillow's readers raise whatever they stumble over
        raise InvalidImage(f"cannot read the picture in {name}: {_reason(error)}") from error


def _check_file(source: str | Path, name: str) -> None:
    """Look before opening: a pipe would block, and a device never end."""
    try:
        state = os.stat(source)
    except FileNotFoundError:
        raise InvalidImage(f"expected a picture, found no file at {name}") from None
    except (OSError, ValueError) as error:
        raise InvalidImage(f"cannot find the picture {name}: {_reason(error)}") from None
    if stat.S_ISDIR(state.st_mode):
        raise InvalidImage(f"expected a picture file, got the folder {name}")
    if not stat.S_ISREG(state.st_mode):
        raise InvalidImage(f"expected a picture file, got the pipe or device {name}")
    if state.st_size == 0:
        raise InvalidImage(f"expected a picture, got the empty file {name}")
    _check_size(state.st_size, name)


def _check_size(size: int, name: str) -> None:
    if Image.MAX_IMAGE_PIXELS and size > _BYTES_PER_PIXEL * Image.MAX_IMAGE_PIXELS:
        raise InvalidImage(f"expected at most {Image.MAX_IMAGE_PIXELS} pixels, got {size} bytes in {name}")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__


def identify(stream: BinaryIO) -> Image.Image:
    """Read the header of a picture file; no pixel is read yet.

    Raises:
        InvalidImage: If it is animated, has several pages, is too large or lies about its size.
        MissingExtra: If it is a HEIC and pillow-heif is not installed.
    """
    head = stream.read(12)
    try:
        image = _open(stream, functools.partial(Image.open, formats=FORMATS))
    except UnidentifiedImageError:
        image = _open_unknown(stream, head)
        if image is None:
            raise
    pixels = image.width * image.height
    # Pillow only warns up to twice its limit.
    if Image.MAX_IMAGE_PIXELS and pixels > Image.MAX_IMAGE_PIXELS:
        raise InvalidImage(f"expected at most {Image.MAX_IMAGE_PIXELS} pixels, got {image.width}x{image.height}")
    # MPO is what some phones call a JPEG with a second, hidden picture.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise InvalidImage(f"expected one still picture, got a {image.format} with several")
    image.format = image.format.replace("MPO", "JPEG")
    check_claim(image, stream)
    return image


def _open(stream: BinaryIO, read: Callable[[BinaryIO], Image.Image]) -> Image.Image:
    stream.seek(0)
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read(stream)


def _open_unknown(stream: BinaryIO, head: bytes) -> Image.Image | None:
    """Open what Pillow does not know by itself; None if it is something else."""
    if head[4:8] == b"ftyp" and head[8:] in _HEIF_BRANDS:
        register_heif()
        return _open(stream, functools.partial(Image.open, formats=("HEIF",)))
    if head.startswith((b"II*\0", b"MM\0*")):
        with suppress(SyntaxError):
            return _open(stream, GreyAlphaTiff)
    return None


class GreyAlphaTiff(TiffImageFile):
    """A TIFF of 16 bits in grey with alpha, as picture of mode RGBA: each pixel the four bytes of its two samples.

    The bytes are in the order of the file if its strips are raw, else in that of this machine.
    """

    def _setup(self) -> None:
        stored = {tag: self.tag_v2.get(tag) for tag in _AS_RGBA}
        kind = stored[_BITS], stored[_CHANNELS]
        if kind != ((16, 16), 2) or stored[_PHOTOMETRIC] not in (0, 1) or stored[_EXTRA] not in ((1,), (2,)):
            raise SyntaxError("not grey with alpha")
        # Only Pillow has to believe it; libtiff reads the tags of the file.
        self.tag_v2.update(_AS_RGBA)
        super()._setup()
        self.tag_v2.update(stored)


def register_heif() -> None:
    """Teach Pillow to read and write HEIF.

    Raises:
        MissingExtra: If pillow-heif is not installed.
    """
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise MissingExtra("HEIC pictures need pillow-heif; install it with: pip install 'dcpt[heic]'") from None
    register_heif_opener()


def load_upright(image: Image.Image, stream: BinaryIO, *, allow_truncated: bool = False) -> None:
    """Read the pixels and turn them as the EXIF orientation says; with `allow_truncated`, as far as they go.

    Raises:
        InvalidImage: If there are fewer than the header claims, which Pillow does not always tell.
    """
    try:
        image.load()
        check_content(image, stream)
    except (OSError, SyntaxError, InvalidImage):
        if not allow_truncated:
            raise
        # Pillow's own switch for this is global, and other threads may want whole pictures.
        image.tile = []
        image.load()
        if image.format == "TIFF":
            image.load_end()  # turns it
    exif = image.info.get("exif")
    ImageOps.exif_transpose(image, in_place=True)
    if exif:
        image.info["exif"] = exif  # as it was: Pillow's is written anew, without camera makers' notes
