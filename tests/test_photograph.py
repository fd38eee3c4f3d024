"""Photographs come back from an identity network as they were: look, alpha, depth, profile, metadata."""

import io
import struct
import sys
from typing import NamedTuple

import numpy as np
import odd_files as odd
import pytest
import tifffile
import torch
from odd_files import random_samples, save, save_png, save_tiff, smooth_samples, to_pil, turn_back
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from dcpt.errors import InvalidImage, MissingExtra, OutputError
from dcpt.photographs import open_photograph
from dcpt.photographs.containers import FORMAT_OF_SUFFIX
from dcpt.photographs.encoding import encode_samples
from dcpt.photographs.metadata import Metadata


class Odd(NamedTuple):
    """A file, the upright samples in it, how much a lossy codec may be off, and the profile it has."""

    data: bytes
    samples: np.ndarray
    tolerance: int = 0
    profile: bytes | None = None


SMOOTH, RGB, RGBA = smooth_samples(24, 40), random_samples(9, 7, 3), random_samples(9, 7, 4)
RGBA[:3, :, 3] = 0  # invisible colours are kept, too
GREY, LA = RGB[..., :1], RGBA[..., :2]
DEEP, DEEPA = random_samples(9, 7, 3, 16), random_samples(9, 7, 4, 16)
P3, INKS = odd.p3_profile(), odd.ink_profile()
FINE = {"quality": 98, "subsampling": "4:4:4"}


def key_alpha(samples, color):
    """Append the alpha of a picture in which one colour stands for transparency."""
    opaque = (samples != np.array(color)).any(2, keepdims=True) * np.iinfo(samples.dtype).max
    return np.concatenate([samples, opaque.astype(samples.dtype)], 2)


def turned_files():
    exif = {k: odd.with_orientation(k) for k in range(1, 9)}
    back = {k: to_pil(turn_back(SMOOTH, k)) for k in range(1, 9)}
    tag, chunk = (274, "H", 1, 6, True), (b"eXIf", exif[5].tobytes()[6:])
    return {f"jpeg turned {k}": Odd(save(back[k], "JPEG", exif=exif[k], **FINE), SMOOTH, 4) for k in exif} | {
        "png turned": Odd(save(back[6], "PNG", exif=exif[6]), SMOOTH),
        "webp turned": Odd(save(back[3], "WEBP", lossless=True, exif=exif[3]), SMOOTH),
        "avif turned": Odd(save(back[7], "AVIF", exif=exif[7], quality=100), SMOOTH, 4),
        "tiff turned": Odd(save(back[8], "TIFF", exif=exif[8]), SMOOTH),
        "16-bit png turned": Odd(save_png(turn_back(DEEP, 5), chunks=[chunk]), DEEP),
        "16-bit tiff turned": Odd(save_tiff(turn_back(DEEP, 6).copy(), photometric="rgb", extratags=[tag]), DEEP),
    }


def colored_files():
    inks, lab = Image.new("CMYK", (8, 8), (255, 0, 0, 0)), Image.new("LAB", (8, 8), (135, 128 + 80, 128 + 67))
    red, cyan = np.full((8, 8, 3), (250, 0, 4), np.uint8), np.full((8, 8, 3), (0, 255, 255), np.uint8)
    return {
        "p3 jpeg": Odd(save(to_pil(SMOOTH), "JPEG", icc_profile=P3, **FINE), SMOOTH, 4, P3),
        "p3 png": Odd(save(to_pil(RGB), "PNG", icc_profile=P3), RGB, 0, P3),
        "p3 tiff": Odd(save(to_pil(RGB), "TIFF", icc_profile=P3), RGB, 0, P3),
        "p3 webp": Odd(save(to_pil(RGB), "WEBP", lossless=True, icc_profile=P3), RGB, 0, P3),
        "p3 16-bit tiff": Odd(save_tiff(DEEP, photometric="rgb", iccprofile=P3), DEEP, 0, P3),
        # What red ink looks like in sRGB: Lab (53, 80, 67), of which this is the formula's nearest.
        "cmyk jpeg by its profile": Odd(save(inks, "JPEG", icc_profile=INKS, quality=98), red, 6),
        "cmyk tiff by its profile": Odd(save(inks, "TIFF", icc_profile=INKS), red, 6),
        "cmyk jpeg without": Odd(save(inks, "JPEG", quality=98), cyan, 4),
        "lab tiff": Odd(save(lab, "TIFF"), red, 6),
        "grey jpeg": Odd(save(to_pil(SMOOTH[..., :1]), "JPEG", quality=98), SMOOTH[..., :1], 3),
        "progressive jpeg": Odd(save(to_pil(SMOOTH), "JPEG", progressive=True, **FINE), SMOOTH, 4),
        "mpo": Odd(save(to_pil(SMOOTH), "MPO", save_all=True, append_images=[to_pil(GREY)], **FINE), SMOOTH, 4),
    }


def transparent_files():
    palette = to_pil(RGB).quantize(40)
    colors, levels = np.asarray(palette.convert("RGB")), np.arange(40, dtype=np.uint8) * 6
    indices = np.asarray(palette)
    binary = np.where(indices == 3, 0, 255).astype(np.uint8)
    color, grey = tuple(RGB[0, 0].tolist()), int(GREY[2, 2, 0])
    return {
        "rgba png": Odd(save(to_pil(RGBA), "PNG"), RGBA),
        "grey png with alpha": Odd(save(to_pil(LA), "PNG"), LA),
        "png with a transparent colour": Odd(save(to_pil(RGB), "PNG", transparency=color), key_alpha(RGB, color)),
        "png with a transparent grey": Odd(save(to_pil(GREY), "PNG", transparency=grey), key_alpha(GREY, grey)),
        "rgba webp": Odd(save(to_pil(RGBA), "WEBP", lossless=True, exact=True), RGBA),
        "rgba bmp": Odd(odd.save_bmp(RGBA), RGBA),
        "rgba tiff": Odd(save(to_pil(RGBA), "TIFF"), RGBA),
        "rgba avif": Odd(save(to_pil(smooth_samples(24, 40, 4)), "AVIF", quality=100), smooth_samples(24, 40, 4), 5),
        "palette png": Odd(save(palette, "PNG"), colors),
        "palette png with levels": Odd(
            save(palette, "PNG", transparency=levels.tobytes()), np.dstack([colors, levels[indices]])
        ),
        "gif": Odd(save(palette, "GIF"), colors),
        "gif with a transparent colour": Odd(save(palette, "GIF", transparency=3), np.dstack([colors, binary])),
        "palette bmp": Odd(save(palette, "BMP"), colors),
        "palette of greys": Odd(save(grey_palette(), "PNG"), np.asarray(grey_palette().convert("L"))[..., None]),
    }


def grey_palette():
    image = to_pil(random_samples(9, 7, 1) % 4)
    image.putpalette([0, 0, 0, 90, 90, 90, 200, 200, 200, 255, 255, 255])
    return image


def deep_files():
    key, grey_key = DEEP[1, 1], DEEP[1, 1, :1]
    keyed = [(b"tRNS", struct.pack(">3H", *key.tolist()))], [(b"tRNS", struct.pack(">H", int(grey_key[0])))]
    alpha = {"photometric": "rgb", "extrasamples": ["unassalpha"], "compression": "zlib", "predictor": True}
    tiled = np.tile(DEEP, (3, 4, 1))
    files = {f"16-bit png of {c} channels": Odd(save_png(DEEPA[..., :c]), DEEPA[..., :c]) for c in (1, 2, 3, 4)}
    return files | {
        "interlaced 16-bit png": Odd(save_png(DEEP, interlaced=True), DEEP),
        "interlaced 16-bit grey png": Odd(save_png(DEEPA[..., :2], interlaced=True), DEEPA[..., :2]),
        "16-bit png with a transparent colour": Odd(save_png(DEEP, chunks=keyed[0]), key_alpha(DEEP, key)),
        "16-bit png with a transparent grey": Odd(
            save_png(DEEP[..., :1], chunks=keyed[1]), key_alpha(DEEP[..., :1], grey_key)
        ),
        "16-bit tiff": Odd(save_tiff(DEEP, photometric="rgb"), DEEP),
        "16-bit tiff, other order": Odd(save_tiff(DEEP, photometric="rgb", byteorder=">"), DEEP),
        "16-bit tiff in tiles": Odd(save_tiff(tiled, photometric="rgb", tile=(16, 16), compression="zlib"), tiled),
        "16-bit tiff with alpha": Odd(save_tiff(DEEPA, **alpha), DEEPA),
        "16-bit grey tiff": Odd(save_tiff(DEEP[..., :1], photometric="minisblack"), DEEP[..., :1]),
        "16-bit grey tiff, other order": Odd(save_tiff(DEEP[..., :1], byteorder=">"), DEEP[..., :1]),
        "16-bit grey tiff, white is 0": Odd(save_tiff(~DEEP[..., :1], photometric="miniswhite"), DEEP[..., :1]),
        "16-bit ppm": Odd(b"P6 7 9 65535\n" + DEEP.astype(">u2").tobytes(), DEEP),
        "16-bit pgm": Odd(b"P5 7 9 65535\n" + DEEP[..., 0].astype(">u2").tobytes(), DEEP[..., :1]),
        "10-bit ppm": Odd(
            b"P6 1 1 1023\n\0\0\x03\xff\x01\x00", np.array([[[0, 65535, round(256 / 1023 * 65535)]]], np.uint16)
        ),
    }


def small_files():
    tall = random_samples(97, 97, 3)
    shapes = (1, 1), (1, 97), (97, 1), (33, 17)
    sizes = {f"{h}x{w} png": Odd(save(to_pil(tall[:h, :w]), "PNG"), tall[:h, :w]) for h, w in shapes}
    bits = GREY // 128 * 255
    return sizes | {
        "1-bit png": Odd(save(to_pil(bits).convert("1"), "PNG"), bits),
        "1-bit tiff": Odd(save(to_pil(bits).convert("1"), "TIFF", compression="group4"), bits),
        "pbm": Odd(save(to_pil(bits).convert("1"), "PPM"), bits),
        "ppm": Odd(save(to_pil(RGB), "PPM"), RGB),
        "ppm in digits": Odd(b"P3 2 1 255\n1 2 3 4 5 6\n", np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)),
        "7-bit pgm": Odd(b"P5 2 1 127\n\x00\x7f", np.array([[[0], [255]]], np.uint8)),
        "bmp": Odd(save(to_pil(RGB), "BMP"), RGB),
        "jpeg of odd sides": Odd(save(to_pil(SMOOTH[:17, :33]), "JPEG", **FINE), SMOOTH[:17, :33], 4),
    }


TOUR = turned_files() | colored_files() | transparent_files() | deep_files() | small_files()


@pytest.mark.parametrize("name", TOUR)
def test_odd_files_come_back_as_they_were(name):
    file = TOUR[name]
    full, channels = np.iinfo(file.samples.dtype).max, file.samples.shape[2]
    photograph = open_photograph(file.data)
    restored = photograph.encode(photograph.pixels.clone())
    before, after = Image.open(io.BytesIO(file.data)), Image.open(io.BytesIO(restored))

    seen = (photograph.pixels[0].permute(1, 2, 0) * full).round().numpy()
    colors = file.samples[..., : 3 if channels > 2 else 1]
    assert seen.shape[:2] == colors.shape[:2] and np.abs(seen - colors.astype(float)).max() <= file.tolerance
    got = odd.load(restored)
    assert got.dtype == file.samples.dtype and got.shape == file.samples.shape
    visible = file.samples[..., -1] > (0 if after.format == "GIF" and channels == 4 else -1)
    assert np.abs(got.astype(int) - file.samples.astype(int))[visible].max() <= 2 * file.tolerance
    if channels in (2, 4):
        assert np.array_equal(got[..., -1], file.samples[..., -1])
    assert after.format == before.format.replace("MPO", "JPEG") and after.getexif().get(0x0112, 1) == 1
    if before.getexif().get(0x010F):
        assert after.getexif()[0x010F] == "a camera"
    assert file.profile is None or after.info["icc_profile"] == file.profile


def test_the_tour_has_many_stops():
    assert len(TOUR) >= 40


def test_all_values_survive_floats():
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    photograph = open_photograph(save_png(every))
    assert np.array_equal(odd.load(photograph.encode(photograph.pixels, "TIFF")), every)
    every = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    photograph = open_photograph(save(to_pil(every), "PNG"))
    assert np.array_equal(odd.load(photograph.encode(photograph.pixels)), every)


def camera_block(order, orientation=6, thumbnail=True):
    """EXIF as cameras write it: a maker's note after the directory, a thumbnail after that."""
    start = 8 + 2 + 12 * 2 + 4
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}IH", 8, 2)
    maker = struct.pack(f"{order}HHII", 0x010F, 2, 5, start)
    turn = struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0)
    return head + maker + turn + struct.pack(f"{order}I", (start + 5) * thumbnail) + b"Acme\0" + b"\0" * 6 + b"a note"


def info(data):
    image = Image.open(io.BytesIO(data))
    image.load()
    return image.info


@pytest.mark.parametrize("order", "<>")
def test_exif_is_patched_where_it_stands(order):
    photograph = open_photograph(save(to_pil(SMOOTH), "JPEG", exif=b"Exif\0\0" + camera_block(order)))
    kept = info(photograph.encode(photograph.pixels))["exif"].removeprefix(b"Exif\0\0")
    assert kept == camera_block(order, orientation=1, thumbnail=False)


@pytest.mark.parametrize("block", [b"", b"II", b"MM\0*\0\0\0\x08\xff\xff", b"II*\0\xff\xff\xff\xff"])
def test_broken_exif_does_no_harm(block):
    photograph = open_photograph(save(to_pil(SMOOTH), "JPEG", exif=b"Exif\0\0" + block, **FINE))
    for format in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
        assert odd.load(photograph.encode(photograph.pixels, format)).shape == SMOOTH.shape


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6" dc:title="a title"/></x:xmpmeta>'


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("source", ["jpeg", "tiff", "png"])
def test_metadata_move_between_containers(source, format):
    exif = odd.with_orientation(6)
    exif.get_ifd(ExifTags.IFD.Exif)[0x829A] = 0.01  # exposure time
    tag = [(700, 1, len(XMP), XMP, True), (274, "H", 1, 6, True), (271, "s", 9, "a camera", True)]
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", XMP.decode())
    data = {
        "jpeg": lambda: save(to_pil(SMOOTH), "JPEG", exif=exif, xmp=XMP, icc_profile=P3, dpi=(300, 150)),
        "png": lambda: save(to_pil(SMOOTH), "PNG", exif=exif, pnginfo=text, icc_profile=P3, dpi=(300, 150)),
        "tiff": lambda: save_tiff(SMOOTH, extratags=tag, iccprofile=P3, resolution=(300, 150), resolutionunit=2),
    }[source]()
    photograph = open_photograph(data)
    assert photograph.pixels.shape[2:] == (40, 24)
    image = Image.open(io.BytesIO(photograph.encode(photograph.pixels, format)))
    image.load()
    assert image.getexif()[0x010F] == "a camera" and image.getexif().get(0x0112, 1) == 1 and image.size == (24, 40)
    assert source == "tiff" or image.getexif().get_ifd(ExifTags.IFD.Exif)[0x829A] == pytest.approx(0.01)
    assert image.info["icc_profile"] == P3
    assert b'dc:title="a title"' in image.info["xmp"] and b'Orientation="6"' not in image.info["xmp"]
    assert format not in ("JPEG", "PNG", "TIFF") or image.info["dpi"] == pytest.approx((300, 150), abs=0.1)

    stripped = Image.open(io.BytesIO(photograph.encode(photograph.pixels, format, strip=True)))
    assert 0x010F not in stripped.getexif() and "xmp" not in stripped.info
    assert stripped.info["icc_profile"] == P3


def test_where_exif_and_xmp_disagree_exif_is_believed_and_the_result_has_one_mind():
    photograph = open_photograph(save(to_pil(SMOOTH), "JPEG", exif=odd.with_orientation(1), xmp=XMP))
    restored = photograph.encode(photograph.pixels, "TIFF")
    assert info(restored)["xmp"] == XMP.replace(b'"6"', b'"1"')
    assert odd.load(restored).shape == SMOOTH.shape


@pytest.mark.parametrize("bits", [8, 16])
def test_png_keeps_text_and_color_chunks(bits):
    chunks = [(b"gAMA", struct.pack(">I", 100000)), (b"cICP", bytes([12, 13, 0, 1])), (b"tEXt", b"Author\0me")]
    data = save(to_pil(RGB), "PNG")
    data = save_png(DEEP) if bits == 16 else data
    data = (
        data[:33]
        + b"".join(odd.chunk(*item) for item in chunks[:2])
        + data[33:-12]
        + odd.chunk(*chunks[2])
        + data[-12:]
    )
    photograph = open_photograph(data)
    restored, stripped = (photograph.encode(photograph.pixels, strip=strip) for strip in (False, True))
    assert all(odd.chunk(*item) in restored for item in chunks)
    assert info(restored)["Author"] == "me"
    assert [odd.chunk(*item) in stripped for item in chunks] == [True, True, False]


def test_a_profile_that_has_no_room_becomes_colors():
    p3 = to_pil(np.full((8, 8, 3), (200, 120, 80), np.uint8))
    photograph = open_photograph(save(p3, "PNG", icc_profile=P3))
    expected = ImageCms.profileToProfile(p3, io.BytesIO(P3), ImageCms.createProfile("sRGB"))
    for format in ("BMP", "PPM", "GIF"):
        got = odd.load(photograph.encode(photograph.pixels, format))
        assert np.abs(got[..., :3].astype(int) - np.asarray(expected)).max() <= 2
    assert np.abs(np.asarray(expected).astype(int) - np.asarray(p3)).max() > 5


@pytest.mark.parametrize("format", sorted({*FORMAT_OF_SUFFIX.values()}))
@pytest.mark.parametrize("channels", [1, 2])
def test_a_profile_for_grey_never_goes_with_colors(format, channels):
    if format == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    grey = np.full((32, 32, channels), 55, np.uint8)
    grey[..., 1:] = 255
    photograph = open_photograph(save(to_pil(grey), "PNG", icc_profile=odd.grey_profile()))
    if channels == 2 and format in ("JPEG", "PPM"):
        with pytest.raises(OutputError, match="LA"):
            photograph.encode(photograph.pixels, format)
        return
    restored = photograph.encode(photograph.pixels, format)
    profile, got = info(restored).get("icc_profile", b""), odd.load(restored)
    if profile[16:20] == b"GRAY":
        assert got.shape == grey.shape and np.abs(got.astype(int) - grey).max() <= 2
    else:
        # 55 of 255 of the light: 1.055 * (55 / 255) ** (1 / 2.4) - 0.055 by the formula of sRGB.
        assert got.shape[2] >= 3 and np.abs(got[..., :3].astype(int) - 128).max() <= 3


def test_a_tiff_without_a_resolution_gets_none():
    for resolution in ({}, {"dpi": (300, 150)}):
        photograph = open_photograph(save(to_pil(RGB), "TIFF", **resolution))
        for format in ("TIFF", "PNG", "JPEG"):
            tags = Image.open(io.BytesIO(photograph.encode(photograph.pixels, format)))
            found = tags.tag_v2.get(282) if format == "TIFF" else tags.info.get("dpi", (None,))[0]
            assert found == (pytest.approx(300, abs=0.1) if resolution else None)


@pytest.mark.parametrize(
    "name, most", [("exif", 65533), ("xmp", 65533 - len(b"http://ns.adobe.com/xap/1.0/\0")), ("comment", 65533)]
)
def test_a_jpeg_goes_without_the_metadata_that_it_has_no_room_for(name, most):
    start = b"Exif\0\0" + camera_block("<", 1, False) if name == "exif" else b""
    for length in (most, most + 1):
        block = start.ljust(length, b"x")
        restored = encode_samples(RGB, "JPEG", Metadata(**{"comment": b"short", name: block}))
        assert info(restored).get(name, b"") == (block if length == most else b"")
        assert name == "comment" or info(restored)["comment"] == b"short"


def table_of(data):
    return Image.open(io.BytesIO(data)).quantization[0]


@pytest.mark.parametrize("quality", [30, 90, 97, 100])
def test_jpeg_is_never_coarser_than_it_came(quality):
    data = save(to_pil(SMOOTH), "JPEG", quality=quality)
    photograph = open_photograph(data)
    restored = photograph.encode(photograph.pixels)
    fine = table_of(save(to_pil(SMOOTH), "JPEG", quality=95))
    assert all(new <= min(old, least) for new, old, least in zip(table_of(restored), table_of(data), fine))
    assert Image.open(io.BytesIO(restored)).layer[0][1:3] == (1, 1)  # colour is not subsampled


def test_pil_images_get_the_depth_they_can_have():
    for data, mode in ((save_png(DEEP), "RGB"), (save_png(DEEP[..., :1]), "I;16"), (save_png(DEEPA[..., :2]), "LA")):
        photograph = open_photograph(data)
        image = photograph.to_pil(photograph.pixels)
        assert image.mode == mode
        full = np.asarray(image).astype(float) / (65535 if mode == "I;16" else 255)
        exact = odd.load(data)[..., : 1 if mode == "I;16" else None].squeeze() / 65535
        assert np.abs(full - exact).max() < 0.51 / 255


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "BMP", "AVIF", "PPM", "TIFF", "PNG"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_go_into_every_container(format, channels):
    samples = smooth_samples(24, 40, channels).astype(np.uint16) * 257
    photograph = open_photograph(save_png(samples))
    got = odd.load(photograph.encode(photograph.pixels, format))
    deep = format in ("PPM", "TIFF", "PNG")
    assert got.dtype == (np.uint16 if deep else np.uint8)
    assert np.abs(got.astype(int) - samples // (1 if deep else 257)).max() <= (4 if format in ("JPEG", "AVIF") else 0)


def test_what_the_network_makes_of_grey_stays_grey_and_in_range():
    photograph = open_photograph(save(to_pil(GREY), "PNG"))
    colored = photograph.pixels + torch.tensor([0.3, 0, -0.3]).view(1, 3, 1, 1)
    got = odd.load(photograph.encode(colored.clamp(0, 1)))
    expected = colored.clamp(0, 1).double().mean(1)[0].mul(255).numpy()
    assert np.abs(got[..., 0] - expected).max() <= 0.501
    white = odd.load(photograph.encode(torch.full_like(photograph.pixels, 1.5)))
    assert (white == 255).all()


@pytest.mark.parametrize(
    "samples, format, message",
    [
        (RGBA, "JPEG", "RGBA as JPEG; try .png"),
        (RGBA, "PPM", "RGBA as PPM"),
        (LA, "PPM", "LA as PPM"),
        (RGBA, "GIF", "half-transparent"),
    ],
)
def test_containers_refuse_what_they_cannot_hold(samples, format, message):
    photograph = open_photograph(save(to_pil(samples), "PNG"))
    with pytest.raises(OutputError, match=message):
        photograph.encode(photograph.pixels, format)


TWO = DEEPA[..., :2].repeat(20, 0)
ALPHA = {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": ["unassalpha"]}
TURN = {"extratags": [(274, "H", 1, 6, True)]}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"byteorder": ">"},
        {"compression": "zlib", "predictor": True},
        {"compression": "zlib", "byteorder": ">", "rowsperstrip": 7},
        {"tile": (16, 16)},
        {"photometric": "miniswhite"},
        TURN,
    ],
)
def test_grey_with_alpha_of_sixteen_bits_comes_back_from_tiff(options):
    samples = turn_back(TWO, 6).copy() if options is TURN else TWO.copy()
    samples[..., 0] ^= 65535 * ("photometric" in options)
    photograph = open_photograph(save_tiff(samples, **ALPHA | options))
    assert (photograph.format, photograph.grey, photograph.depth) == ("TIFF", True, 16)
    restored = photograph.encode(photograph.pixels)
    assert np.array_equal(tifffile.imread(io.BytesIO(restored)), TWO)
    assert np.array_equal(odd.load_png(open_photograph(restored).encode(photograph.pixels, "PNG")), TWO)


def test_another_shape_is_refused():
    photograph = open_photograph(save(to_pil(RGB), "PNG"))
    with pytest.raises(InvalidImage, match="got .1, 3, 4, 4."):
        photograph.encode(torch.zeros(1, 3, 4, 4))


def test_heic_asks_for_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(MissingExtra, match=r"dcpt\[heic\]"):
        open_photograph(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    photograph = open_photograph(save(to_pil(RGB), "PNG"))
    with pytest.raises(MissingExtra, match=r"dcpt\[heic\]"):
        photograph.check_format("HEIF")
    with pytest.raises(MissingExtra, match=r"dcpt\[heic\]"):
        photograph.encode(photograph.pixels, "HEIF")


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_heic_comes_back_as_heic(channels):
    pytest.importorskip("pillow_heif").register_heif_opener()
    samples = smooth_samples(24, 40, 4)[..., : channels if channels > 1 else 1]
    photograph = open_photograph(save(to_pil(samples), "HEIF", quality=-1, exif=odd.with_orientation(1)))
    restored = Image.open(io.BytesIO(photograph.encode(photograph.pixels)))
    assert restored.format == photograph.format == "HEIF" and restored.getexif()[0x010F] == "a camera"
    got = np.asarray(restored).reshape(24, 40, -1)
    assert got.shape == samples.shape and np.abs(got.astype(int) - samples).max() <= 6
    assert channels < 4 or np.array_equal(got[..., 3], samples[..., 3])
