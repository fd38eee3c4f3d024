"""Every kind of picture comes back as its own kind, and nothing in it is lost."""

import functools
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import as_uint8, make_picture
from odd_files import load, save, save_png
from PIL import Image, ImageCms

from dcpt.errors import InvalidImage, OutputError
from dcpt.image import open_image, output_format, read_picture, write_image
from dcpt.photographs import open_photograph


def unchanged(image):
    pixels, give_back = read_picture(image)
    assert pixels.dtype == torch.float32 and pixels.ndim == 4 and pixels.shape[1] == 3
    return give_back(pixels)


def camera_exif():
    """Metadata as cameras write it, with sub-directories."""
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    exif.get_ifd(0x8769)[0x829A] = 0.01  # exposure time
    exif.get_ifd(0x8825)[0x0001] = "N"  # GPS latitude
    return exif


def random_array(*shape, dtype=np.uint8, high=256):
    return np.random.default_rng(0).integers(0, high, shape).astype(dtype)


@pytest.mark.parametrize("mode, shape", [("L", (9, 7)), ("RGB", (9, 7, 3)), ("RGBA", (9, 7, 4))])
def test_pil_pictures_pass_through_exactly(mode, shape):
    image = Image.fromarray(random_array(*shape))
    result = unchanged(image)
    assert result.mode == mode and result.tobytes() == image.tobytes()


def test_grey_with_transparency_and_transparent_colours_stay_as_they_are():
    grey = Image.fromarray(random_array(9, 7, 4)).convert("LA")
    assert unchanged(grey).mode == "LA" and unchanged(grey).tobytes() == grey.tobytes()
    keyed = Image.fromarray(np.repeat(random_array(9, 7, 1), 3, axis=2))
    keyed.info["transparency"] = tuple(np.asarray(keyed)[0, 0].tolist())
    assert unchanged(keyed).tobytes() == keyed.convert("RGBA").tobytes()


def test_big_endian_sixteen_bit_grey_is_not_clipped():
    values = random_array(9, 7, dtype=np.uint16, high=65536)
    image = Image.frombytes("I;16B", (7, 9), values.astype(">u2").tobytes())
    assert np.array_equal(np.asarray(unchanged(image)), values)


def test_cmyk_comes_back_as_rgb_that_says_so():
    image = Image.fromarray(random_array(9, 7, 3)).convert("CMYK")
    image.info["icc_profile"] = b"for four inks"
    profile = ImageCms.ImageCmsProfile(io.BytesIO(unchanged(image).info["icc_profile"]))
    assert profile.profile.xcolor_space == "RGB " and "sRGB" in ImageCms.getProfileDescription(profile)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif"])
def test_camera_metadata_survives_every_container_that_has_room(suffix, tmp_path):
    Image.fromarray(random_array(8, 16, 3)).save(tmp_path / "in.jpg", exif=camera_exif())
    write_image(unchanged(tmp_path / "in.jpg"), tmp_path / f"out{suffix}")
    written = Image.open(tmp_path / f"out{suffix}").getexif()
    assert written[0x010F] == "a camera"
    assert written.get_ifd(0x8769)[0x829A] == pytest.approx(0.01)


def test_values_a_hair_outside_the_range_are_clamped():
    pixels, _ = read_picture(torch.tensor([-0.0005, 0.5, 1.0005]).view(1, 1, 3).expand(3, 1, 3))
    assert pixels.min() == 0 and pixels.max() == 1


def test_sixteen_bit_grey_stays_sixteen_bit():
    image = Image.fromarray(random_array(9, 7, dtype=np.uint16, high=65536))
    result = unchanged(image)
    assert result.mode == "I;16" and np.array_equal(np.asarray(result), np.asarray(image))


@pytest.mark.parametrize("mode", ["P", "CMYK", "1"])
def test_other_modes_keep_their_look(mode):
    image = Image.fromarray(random_array(9, 7, 3)).convert(mode)
    assert unchanged(image).convert("RGB").tobytes() == image.convert("RGB").tobytes()


@pytest.mark.parametrize("dtype, high", [(np.uint8, 256), (np.uint16, 65536)])
@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 3), (5, 6, 4)])
def test_integer_arrays_pass_through_exactly(dtype, high, shape):
    array = random_array(*shape, dtype=dtype, high=high)
    result = unchanged(array)
    assert result.dtype == dtype and np.array_equal(result, array)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float_arrays_pass_through(dtype):
    array = np.random.default_rng(0).random((5, 6, 3)).astype(dtype)
    result = unchanged(array)
    assert result.dtype == dtype and np.allclose(result, array, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 5, 6), (2, 3, 5, 6)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
def test_tensors_pass_through(shape, dtype):
    tensor = (torch.rand(shape) * (255 if dtype == torch.uint8 else 1)).to(dtype)
    result = unchanged(tensor)
    assert result.dtype == dtype and torch.equal(result, tensor)


def test_non_contiguous_tensors_are_taken():
    tensor = torch.rand(5, 6, 3).permute(2, 0, 1)
    assert torch.equal(unchanged(tensor), tensor)


def test_bytes_come_back_in_their_format():
    buffer = io.BytesIO()
    Image.fromarray(as_uint8(make_picture())).save(buffer, "png")
    result = unchanged(buffer.getvalue())
    assert isinstance(result, bytes)
    assert Image.open(io.BytesIO(result)).format == "PNG"
    assert Image.open(io.BytesIO(result)).tobytes() == Image.open(buffer).tobytes()


def test_sixteen_bit_files_come_back_as_deep_as_their_kind_can_be(tmp_path):
    color, grey = (random_array(9, 7, c, dtype=np.uint16, high=65536) for c in (3, 1))
    result = unchanged(save_png(color))
    assert isinstance(result, bytes) and np.array_equal(load(result), color)
    (tmp_path / "color.png").write_bytes(save_png(color))
    assert unchanged(tmp_path / "color.png").mode == "RGB"
    (tmp_path / "grey.png").write_bytes(save_png(grey))
    assert np.array_equal(np.asarray(unchanged(tmp_path / "grey.png")), grey[..., 0])
    eight = open_image(tmp_path / "grey.png")
    assert eight.mode == "L" and np.abs(np.asarray(eight) - grey[..., 0] / 257).max() <= 0.5


def test_pictures_are_turned_upright_once_and_keep_exif_and_profile(tmp_path):
    image = Image.fromarray(random_array(8, 16, 3))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"  # orientation: turn by 270 degrees; maker
    image.save(tmp_path / "in.jpg", exif=exif, icc_profile=b"a profile", quality=100, subsampling=0)
    result = unchanged(tmp_path / "in.jpg")
    assert result.size == (8, 16)
    write_image(result, tmp_path / "out.jpg")
    written = Image.open(tmp_path / "out.jpg")
    assert written.size == (8, 16)
    assert written.getexif().get(0x0112, 1) == 1
    assert written.getexif()[0x010F] == "a camera"
    assert written.info["icc_profile"] == b"a profile"


@pytest.mark.parametrize(
    "image, message",
    [
        (np.zeros((5, 6, 2), np.uint8), "expected an array"),
        (np.zeros((0, 6, 3), np.uint8), "expected an array"),
        (np.zeros((5, 6, 3), np.int32), "uint8, uint16 or floats"),
        (np.full((5, 6, 3), 200.0), "divide 8-bit values by 255"),
        (np.full((5, 6, 3), np.nan), r"values in \[0, 1\]"),
        (torch.zeros(1, 5, 6), "expected a tensor"),
        (torch.zeros(3, 5, 6, dtype=torch.int64), "uint8 or floats"),
        (b"", "the bytes given"),
        (b"%!PS-Adobe EPSF", "got something else"),
        (42, "got int"),
        (Image.new("F", (5, 6)), "mode F"),
    ],
)
def test_what_is_no_picture_is_refused(image, message):
    with pytest.raises(InvalidImage, match=message):
        read_picture(image)


def test_bombs_and_truncated_files_are_refused(tmp_path, monkeypatch):
    Image.fromarray(random_array(200, 200, 3)).save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    with pytest.raises(InvalidImage, match="cannot read"):
        open_image(data[: len(data) // 2])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30_000)
    with pytest.raises(InvalidImage, match="at most 30000 pixels"):
        open_image(tmp_path / "whole.png")
    for source in (bytes(360_001), tmp_path / "zeros.png"):
        (tmp_path / "zeros.png").write_bytes(bytes(360_001))
        with pytest.raises(InvalidImage, match="at most 30000 pixels, got 360001 bytes in"):
            open_image(source)


@pytest.mark.parametrize(
    "suffixes, format",
    [
        (".jpg .jpeg .jpe .jfif .JPG", "JPEG"),
        (".bmp .dib", "BMP"),
        (".ppm .pgm .pbm .pnm", "PPM"),
        (".heic .heif", "HEIF"),
    ],
)
def test_all_suffixes_of_a_format_are_known(suffixes, format):
    assert {output_format(Path(f"x{suffix}")) for suffix in suffixes.split()} == {format}


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "out.jpg"
    target.write_bytes(b"old")
    with pytest.raises(OutputError, match="RGBA as JPEG"):
        write_image(Image.new("RGBA", (4, 4)), target)
    with pytest.raises(OutputError, match="ending in one of"):
        write_image(Image.new("RGB", (4, 4)), tmp_path / "out.xyz")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


LONGEST = {"JPEG": 65500, "WEBP": 16383, "GIF": 65535, "AVIF": 32768}


def black_strip(side, tall):
    return open_photograph(save(Image.new("RGB", (4, side) if tall else (side, 4)), "PNG"))


@pytest.mark.parametrize("format", LONGEST)
@pytest.mark.parametrize("tall", [False, True])
def test_only_sides_that_a_container_cannot_hold_are_refused(format, tall):
    longest, longer = black_strip(LONGEST[format], tall), black_strip(LONGEST[format] + 1, tall)
    longest.check_format(format)
    assert open_photograph(longest.encode(longest.pixels, format)).pixels.shape == longest.pixels.shape
    for refuse in (longer.check_format, functools.partial(longer.encode, longer.pixels)):
        with pytest.raises(OutputError, match=f"as {format}, whose sides end at {LONGEST[format]}; try .png$"):
            refuse(format)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_refused_before_the_work(mode):
    photograph = open_photograph(save(Image.new(mode, (4, 4)), "PNG"))
    photograph.check_format()
    with pytest.raises(OutputError, match=f"cannot store {mode} as JPEG"):
        photograph.check_format("JPEG")
