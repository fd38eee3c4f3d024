"""Pictures in: decoded safely, upright, as RGB."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from dcpt.errors import InvalidImage

# By content, never by suffix; an EPS in disguise would start Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF")
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".avif"}


def open_image(source: str | Path | bytes) -> Image.Image:
    """Decode a picture file and turn it upright, as its EXIF orientation says.

    Args:
        source: Path of the file, or its bytes.

    Raises:
        InvalidImage: If it is missing, empty, damaged, too large or not a picture.
    """
    name = "the bytes" if isinstance(source, bytes) else str(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
                return ImageOps.exif_transpose(image)
    except FileNotFoundError:
        raise InvalidImage(f"expected a picture, found no file at {name}") from None
    except UnidentifiedImageError:
        raise InvalidImage(f"expected a picture ({', '.join(FORMATS)}), got something else in {name}") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise InvalidImage(f"expected at most {Image.MAX_IMAGE_PIXELS} pixels, got more in {name}") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise InvalidImage(f"cannot read the picture in {name}: {error}") from None
