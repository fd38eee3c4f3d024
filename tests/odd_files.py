"""Odd but valid picture files, made from arrays of samples with nothing of the package, and plain readers of them."""

import io
import struct
import zlib

import numpy as np
import tifffile
from PIL import Image, ImageCms

# Where the samples of the seven passes of an interlaced PNG stand: first row and column, then the steps.
ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
PNG_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}


def random_samples(height, width, channels, bits=8):
    high = 2**bits
    return np.random.default_rng(bits).integers(0, high, (height, width, channels)).astype(f"uint{bits}")


def smooth_samples(height, width, channels=3):
    """A ramp that lossy codecs keep within few levels; none of its eight orientations are alike."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    return np.stack([40 + 150 * x, 200 - 120 * y, 60 + 60 * x + 90 * y, 255 * x], 2)[..., :channels].astype(np.uint8)


def turn_back(samples, orientation):
    """Store an upright picture as a camera of that EXIF orientation does."""
    turned = samples.transpose(1, 0, 2)
    return {
        1: samples, 2: samples[:, ::-1], 3: samples[::-1, ::-1], 4: samples[::-1],
        5: turned, 6: turned[::-1], 7: turned[::-1, ::-1], 8: turned[:, ::-1],
    }[orientation]  # fmt: skip


def with_orientation(orientation):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "a camera"
    return exif


def to_pil(samples):
    return Image.fromarray(np.ascontiguousarray(samples[..., 0] if samples.shape[2] == 1 else samples))


def save(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def save_tiff(samples, **options):
    buffer = io.BytesIO()
    squeezed = samples[..., 0] if samples.shape[2] == 1 else samples
    tifffile.imwrite(buffer, squeezed, metadata=None, **options)
    return buffer.getvalue()


def save_bmp(samples):
    """Write a BMP of version 5, top row first."""
    height, width, _ = samples.shape
    header = struct.pack("<IiiHHIIiiII", 124, width, -height, 1, 32, 3, 4 * samples[..., 0].size, 0, 0, 0, 0)
    header += struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs"
    data = samples[..., [2, 1, 0, 3]].tobytes()
    return struct.pack("<2sIHHI", b"BM", 138 + len(data), 0, 0, 138) + header.ljust(124, b"\0") + data


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def save_png(samples, *, interlaced=False, chunks=()):
    """Write a PNG of 16 bits, every row with another of the five filters, by the letter of the standard."""
    height, width, channels = samples.shape
    header = struct.pack(">IIBBBBB", width, height, 16, PNG_TYPES[channels], 0, 0, int(interlaced))
    passes = [samples[y::dy, x::dx] for y, x, dy, dx in ADAM7] if interlaced else [samples]
    data = b"".join(filter_rows(part) for part in passes if part.size)
    parts = [chunk(b"IHDR", header), *(chunk(*item) for item in chunks)]
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")])


def filter_rows(samples):
    height, width, channels = samples.shape
    step, above, out = 2 * channels, [0] * (2 * channels * width), bytearray()
    for y in range(height):
        row = list(samples[y].astype(">u2").tobytes())
        out.append(y % 5)
        out += bytes((row[i] - predict(y % 5, row, above, i, step)) % 256 for i in range(len(row)))
        above = row
    return bytes(out)


def predict(kind, row, above, i, step):
    a, b, c = (row[i - step], above[i], above[i - step]) if i >= step else (0, above[i], 0)
    nearest = min((a, b, c), key=lambda value: abs(a + b - c - value))
    return (0, a, b, (a + b) // 2, nearest)[kind]


def load_png(data):
    """Read a PNG of 16 bits, not interlaced, byte by byte."""
    position, parts = 8, {}
    while position < len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        parts[name] = parts.get(name, b"") + data[position + 8 : position + 8 + length]
        position += 12 + length
    width, height, bits, kind = struct.unpack(">IIBB", parts[b"IHDR"][:10])
    assert bits == 16
    channels = {value: key for key, value in PNG_TYPES.items()}[kind]
    stride, step, raw = 2 * channels * width, 2 * channels, zlib.decompress(parts[b"IDAT"])
    above, rows = [0] * stride, []
    for y in range(height):
        filtered, row = raw[y * (stride + 1) : (y + 1) * (stride + 1)], []
        for i in range(stride):
            row.append((filtered[i + 1] + predict(filtered[0], row, above, i, step)) % 256)
        rows.append(bytes(row))
        above = row
    return np.frombuffer(b"".join(rows), ">u2").reshape(height, width, channels).astype(np.uint16)


def load(data):
    """Read a file's samples, (H, W, C), with what is not the package's own: Pillow, tifffile or the above."""
    image = Image.open(io.BytesIO(data))
    if image.format == "TIFF":
        return tifffile.imread(io.BytesIO(data)).reshape(image.height, image.width, -1)
    if image.format == "PNG" and data[24] == 16:
        return load_png(data)
    if data[:2] in (b"P5", b"P6") and b"65535" in data[:30]:
        start = data.index(b"65535") + 6
        return np.frombuffer(data[start:], ">u2").reshape(image.height, image.width, -1).astype(np.uint16)
    if image.mode == "P":
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    return np.asarray(image).reshape(image.height, image.width, -1)


def p3_profile():
    """The profile of sRGB with the primaries of Display P3, adapted to D50."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    primaries = {
        b"rXYZ": (0.5151, 0.2412, -0.0011),
        b"gXYZ": (0.2919, 0.6922, 0.0419),
        b"bXYZ": (0.1572, 0.0666, 0.7841),
    }
    for index in range(struct.unpack_from(">I", profile, 128)[0]):
        name, offset, _ = struct.unpack_from(">4sII", profile, 132 + 12 * index)
        if name in primaries:
            struct.pack_into(">3i", profile, offset + 8, *(round(value * 65536) for value in primaries[name]))
    return bytes(profile)


def ink_profile():
    """A profile of four inks that are none of the usual ones: full first ink is red, the others are grey filters."""
    table = b"".join(
        bytes([round((53 if c else 100) * 0.5 ** (m + y + 2 * k) * 2.55), 128 + 80 * c, 128 + 67 * c])
        for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)
    )  # fmt: skip
    matrix = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + bytes(range(256)) * 4 + table + bytes(range(256)) * 3
    return icc_profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": lut + bytes(-len(lut) % 4)})


def grey_profile():
    """A profile of grey in which numbers are in proportion to light."""
    return icc_profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": b"curv" + bytes(8)})


def icc_profile(device, space, connection, tags):
    white = struct.pack(">3i", *(round(value * 65536) for value in (0.9642, 1, 0.8249)))
    description = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"none\0" + bytes(78 + 1)
    tags = {
        b"desc": description, b"cprt": b"text\0\0\0\0none\0\0\0\0", b"wtpt": b"XYZ \0\0\0\0" + white
    } | tags  # fmt: skip
    offset, entries = 128 + 4 + 12 * len(tags), b""
    for name, data in tags.items():
        entries += struct.pack(">4sII", name, offset, len(data))
        offset += len(data)
    header = struct.pack(">I4sI4s4s4s", offset, b"lcms", 0x02400000, device, space, connection) + bytes(12) + b"acsp"
    header += bytes(28) + white
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + entries + b"".join(tags.values())
