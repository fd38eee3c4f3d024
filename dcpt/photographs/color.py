"""Colour profiles: into sRGB where a picture cannot stay in the space it came in."""

from __future__ import annotations

import functools
import io

from PIL import Image, ImageCms

# PIL's modes by the colour space that an ICC profile names.
_MODES = {b"GRAY": "L", b"RGB ": "RGB", b"CMYK": "CMYK", b"Lab ": "LAB"}


@functools.cache
def srgb_profile() -> bytes:
    """Return the ICC profile of sRGB, always the same bytes."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile[:24] + bytes(12) + profile[36:]  # without the time of day


def lab_profile() -> bytes:
    """Return the ICC profile of Lab, which pictures in it need not carry."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


def profile_mode(icc_profile: bytes) -> str | None:
    """Return PIL's mode of the pictures that a profile is for; None if it is unknown."""
    return _MODES.get(icc_profile[16:20])


def convert_to_srgb(image: Image.Image, icc_profile: bytes) -> Image.Image:
    """Convert a picture to sRGB by its profile, or by Pillow's formulas if that does not fit; keeps alpha."""
    if image.mode in ("LA", "RGBA"):
        converted = convert_to_srgb(image.convert(image.mode[:-1]), icc_profile)
        converted.putalpha(image.getchannel("A"))
        return converted
    if image.mode != profile_mode(icc_profile):
        return image.convert("RGB")
    try:
        return ImageCms.profileToProfile(
            image,
            io.BytesIO(icc_profile),
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (OSError, ImageCms.PyCMSError):
        return image.convert("RGB")
