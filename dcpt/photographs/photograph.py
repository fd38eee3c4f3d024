"""Photographs in and out without loss: what a network does not see goes around it, and into the new file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from dcpt.errors import InvalidImage
from dcpt.photographs.containers import identify, load_upright, open_stream
from dcpt.photographs.encoding import check_shape, encode_samples
from dcpt.photographs.metadata import Metadata, read_metadata
from dcpt.photographs.ppm import has_raw_numbers, read_ppm
from dcpt.photographs.samples import reduce_depth, take_samples, to_image, to_pixels, to_samples
from dcpt.photographs.sixteen_bit import has_sixteen_bits, read_sixteen_bits


@dataclass(frozen=True, eq=False)
class Photograph:
    """A picture for the network, and all else that its file holds.

    Attributes:
        pixels: (1, 3, H, W), float32, in [0, 1], upright. RGB in the space of the embedded profile, in
            sRGB if there is none; CMYK and Lab come as sRGB, grey is repeated over the channels.
        format: Container it came in, by Pillow's name.
        alpha: (H, W, 1), uint8 or uint16; None if the picture is opaque.
        grey: Whether it goes out with a single channel of colour.
        depth: Bits per channel, 8 or 16.
        metadata: EXIF, profile and the like.
        truncated: Whether the file was damaged, and what was missing of `pixels` is black or grey.
    """

    pixels: Tensor
    format: str
    alpha: np.ndarray | None
    grey: bool
    depth: int
    metadata: Metadata
    truncated: bool = False

    def encode(self, restored: Tensor, format: str | None = None, *, strip: bool = False) -> bytes:
        """Encode a restored picture as a file with what the original had: alpha, grey, depth, metadata.

        Args:
            restored: Shape and range of `pixels`, on any device.
            format: Container to write, one of `dcpt.photographs.containers.FORMATS` or, with pillow-heif,
                "HEIF"; default the one it came in. 16 bits per channel need PNG, TIFF or PPM, others get 8.
                JPEG has no room for EXIF, XMP or a comment of more than 64 KB, and goes without.
            strip: Leave out EXIF, XMP, comments and text. The colour profile stays: colours would shift.

        Raises:
            InvalidImage: If the shape differs.
            OutputError: If the container cannot hold the picture, such as transparency in a JPEG.
            MissingExtra: If it is HEIF and pillow-heif is not installed.
        """
        metadata = self.metadata.strip() if strip else self.metadata
        return encode_samples(self._to_samples(restored), format or self.format, metadata)

    def check_format(self, format: str | None = None) -> None:
        """Refuse a container that has no room for the picture, before any work on its pixels.

        Args:
            format: As for `encode`, which may still refuse, such as half-transparent pixels in a GIF.

        Raises:
            OutputError: If the container has no transparency but the picture does, or smaller sides.
            MissingExtra: If it is HEIF and pillow-heif is not installed.
        """
        channels = (1 if self.grey else 3) + (self.alpha is not None)
        check_shape((*self.pixels.shape[2:], channels), format or self.format)

    def to_pil(self, restored: Tensor) -> Image.Image:
        """Return a restored picture as PIL image of mode L, LA, RGB, RGBA or I;16, with EXIF and profile in `info`.

        PIL has 16 bits for grey only: colour and alpha are rounded to 8 here, and kept by `encode`.

        Raises:
            InvalidImage: If the shape differs from that of `pixels`.
        """
        samples = self._to_samples(restored)
        return to_image(samples if samples.shape[2] == 1 else reduce_depth(samples), self.metadata)

    def _to_samples(self, restored: Tensor) -> np.ndarray:
        if restored.shape != self.pixels.shape:
            raise InvalidImage(f"expected a picture {tuple(self.pixels.shape)}, got {tuple(restored.shape)}")
        return to_samples(restored, f"uint{self.depth}", grey=self.grey, alpha=self.alpha)


def open_photograph(source: str | Path | bytes, *, allow_truncated: bool = False) -> Photograph:
    """Read a picture file: PNG, JPEG, WebP, BMP, TIFF, GIF, PPM, AVIF or, with pillow-heif, HEIC; by content.

    AVIF and HEIC of more than 8 bits are read as 8.

    Args:
        source: Path of the file, or its bytes.
        allow_truncated: Take what is there of a damaged file; the rest is black or grey, and `truncated` is true.

    Raises:
        InvalidImage: If it is missing, no regular file, damaged, animated, of several pages, of 32 bits
            or floats, or has more than `PIL.Image.MAX_IMAGE_PIXELS` pixels.
        MissingExtra: If it is a HEIC and pillow-heif is not installed.
    """
    try:
        return _make_photograph(*read_samples(source))
    except InvalidImage:
        if not allow_truncated:
            raise
    return replace(_make_photograph(*read_samples(source, allow_truncated=True)), truncated=True)


def take_photograph(image: Image.Image) -> Photograph:
    """Take a PIL image, turned upright, as photograph; the image itself is left as it is.

    Raises:
        InvalidImage: If it cannot be loaded, or has 32 bits or floats.
    """
    try:
        image.load()
        metadata, upright = read_metadata(image), ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise InvalidImage(f"cannot read the picture given: {error}") from None
    return _make_photograph(*take_samples(upright, metadata), image.format or "PNG")


def read_samples(source: str | Path | bytes, *, allow_truncated: bool = False) -> tuple[np.ndarray, Metadata, str]:
    """Read a picture file as `open_photograph` does.

    Returns:
        Samples, (H, W, 1 to 4), uint8 or uint16: grey, grey with alpha, RGB or RGBA; metadata; container.
    """
    with open_stream(source) as stream:
        image = identify(stream)
        if has_raw_numbers(image):
            return read_ppm(image, stream, allow_truncated=allow_truncated), Metadata(), image.format
        if has_sixteen_bits(image):
            samples = read_sixteen_bits(image, stream, allow_truncated=allow_truncated)
            return samples, read_metadata(image, stream), image.format
        load_upright(image, stream, allow_truncated=allow_truncated)
        return *take_samples(image, read_metadata(image, stream)), image.format


def _make_photograph(samples: np.ndarray, metadata: Metadata, format: str) -> Photograph:
    channels = samples.shape[2]
    alpha = samples[..., -1:].copy() if channels in (2, 4) else None
    return Photograph(to_pixels(samples), format, alpha, channels < 3, samples.itemsize * 8, metadata)
