"""Files that are broken, lie or are no files: each is refused in one line, quickly, in little memory."""

import hashlib
import io
import json
import os
import socket
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from odd_files import chunk, random_samples, save, save_png, save_tiff, to_pil
from PIL import Image

from dcpt.errors import InvalidImage
from dcpt.photographs import open_photograph

NOISE, DEEP = random_samples(64, 48, 3), random_samples(20, 16, 4, 16)
PICTURE = to_pil(NOISE)
PNG, JPEG = save(PICTURE, "PNG"), save(PICTURE, "JPEG")

# Opens each file, and a good one after it; tells what came of it, the seconds, and the peak of memory.
PROGRAM = """
import json, sys, time
from pathlib import Path
from dcpt.errors import DcptError
from dcpt.photographs import open_photograph

good = sys.argv[1]
for line in sys.stdin:
    name, start, result = bytes.fromhex(line).decode("utf-8", "surrogateescape"), time.perf_counter(), None
    try:
        open_photograph(name)
    except DcptError as error:
        result = str(error)
    seconds = time.perf_counter() - start
    whole = tuple(open_photograph(good).pixels.shape) == (1, 3, 64, 48)
    status = Path("/proc/self/status").read_text()  # the maximum of getrusage begins with the parent's
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    print(json.dumps([result, seconds, peak, whole]))
"""


def png_of_size(width, height, data=PNG[33:]):
    return PNG[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + data


def with_chunk(name, data):
    return PNG[:33] + chunk(name, data) + PNG[33:]


def jpeg_of_size(width, height, data=JPEG):
    start = data.index(b"\xff\xc0" if b"\xff\xc0" in data else b"\xff\xc2") + 5
    return data[:start] + struct.pack(">HH", height, width) + data[start + 4 :]


def patched(data, position, new):
    return data[:position] + new + data[position + len(new) :]


def moving(format, **options):
    return save(PICTURE, format, save_all=True, append_images=[PICTURE.rotate(180)], **options)


def tiff_with_tag(tag, value, data=None):
    """Change the first value of a tag in a little-endian TIFF."""
    data = data or save(PICTURE, "TIFF")
    start = struct.unpack_from("<I", data, 4)[0]
    for index in range(struct.unpack_from("<H", data, start)[0]):
        if struct.unpack_from("<H", data, start + 2 + 12 * index)[0] == tag:
            return patched(data, start + 2 + 12 * index + 2, struct.pack("<HII", 4, 1, value))
    raise AssertionError(f"no tag {tag}")


def broken_contents():
    whole = {name: save(PICTURE, name) for name in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF")}
    whole |= {"16-bit PNG": save_png(DEEP), "16-bit TIFF": save_tiff(DEEP[..., :3], photometric="rgb")}
    return {f"truncated {name}": data[: len(data) * 3 // 5] for name, data in whole.items()} | {
        "empty": b"",
        "only the head of a PNG": PNG[:33],
        "only the head of a JPEG": JPEG[:2],
        "text": b"this is no picture\n" * 50,
        "HTML": b"<!doctype html><img src=x>",
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        "PDF": b"%PDF-1.7\n",
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        "a zip": b"PK\x03\x04" + bytes(60),
        "noise": random_samples(1, 4000, 1).tobytes(),
        "HEIC of nothing": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200),
        "PNG of a wrong sum": patched(PNG, 60, b"\0\0\0\0"),
        "PNG of broken zlib": png_of_size(48, 64, chunk(b"IDAT", b"no zlib") + chunk(b"IEND", b"")),
        "TIFF of too many tags": b"II*\0\x08\0\0\0\xff\xff" + bytes(400),
        "WebP of nothing": b"RIFF\x20\0\0\0WEBPVP8L" + bytes(20),
    }


def bombs_and_lies():
    progressive = save(PICTURE, "JPEG", progressive=True)
    canvas = b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + struct.pack("<I", 16382)[:3] * 2
    webp = save(PICTURE, "WEBP")
    interlaced, header = (
        save_png(DEEP, interlaced=True),
        chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 21, 16, 6, 0, 0, 1)),
    )
    return {
        "PNG bomb": png_of_size(60000, 60000),
        "PNG bomb that Pillow only warns of": png_of_size(10000, 9000),
        "PNG bomb of text": with_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80_000_000))),
        "PNG that claims more rows": png_of_size(48, 9000),
        "PNG that claims wide rows": png_of_size(9000, 9000),
        "PNG of no width": png_of_size(0, 64),
        "JPEG that claims 8000x8000": jpeg_of_size(8000, 8000),
        "JPEG that claims more rows": jpeg_of_size(48, 90),
        "JPEG that claims wide rows": jpeg_of_size(96, 64),
        "interlaced PNG that claims more": patched(
            interlaced, 16, header[8:21] + zlib.crc32(header[4:21]).to_bytes(4, "big")
        ),
        "progressive JPEG that claims 9000x9000": jpeg_of_size(9000, 9000, progressive),
        "JPEG bomb": jpeg_of_size(65500, 65500),
        "GIF bomb": patched(save(PICTURE, "GIF"), 6, struct.pack("<HH", 65535, 65535)),
        "BMP that claims more": patched(save(PICTURE, "BMP"), 18, struct.pack("<ii", 9000, 9000)),
        "BMP bomb": patched(save(PICTURE, "BMP"), 18, struct.pack("<ii", 2**31 - 1, 2**31 - 1)),
        "TIFF that claims more": tiff_with_tag(257, 9000),
        "TIFF bomb": tiff_with_tag(256, 2**31),
        "TIFF of a far strip": tiff_with_tag(273, 2**31),
        "PPM that claims more": b"P6 9000 9000 255\n" + bytes(100),
        "16-bit PPM that claims more": b"P6 9000 9000 65535\n" + bytes(100),
        "PPM of a long number": b"P6 99999999999 1 255\n" + bytes(100),
        "WebP bomb": b"RIFF" + struct.pack("<I", len(webp) + 10) + b"WEBP" + canvas + webp[12:],
    }


def wrong_kinds():
    floats = random_samples(9, 7, 3).astype(np.float32)
    return {
        "animated GIF": moving("GIF"),
        "animated WebP": moving("WEBP"),
        "animated PNG": moving("PNG"),
        "animated AVIF": moving("AVIF"),
        "TIFF of two pages": moving("TIFF"),
        "float TIFF": save_tiff(floats, photometric="rgb"),
        "float grey TIFF": save_tiff(floats[..., :1]),
        "32-bit TIFF": save_tiff(DEEP[..., :1].astype(np.uint32)),
        "16-bit TIFF with a sign": save_tiff(DEEP[..., :1].astype(np.int16)),
        "16-bit TIFF of inks": save_tiff(DEEP, photometric="separated"),
        "16-bit TIFF in planes": save_tiff(
            DEEP[..., :3].transpose(2, 0, 1).copy(), planarconfig="separate", photometric="rgb"
        ),
        "16-bit TIFF, premultiplied": save_tiff(DEEP, photometric="rgb", extrasamples=["assocalpha"]),
        "16-bit grey TIFF, premultiplied": save_tiff(
            DEEP[..., :2], photometric="minisblack", planarconfig="contig", extrasamples=["assocalpha"]
        ),
        "16-bit TIFF of two channels": save_tiff(DEEP[..., :2], photometric="minisblack", planarconfig="contig"),
        "16-bit grey TIFF of two pages": save_tiff(
            np.stack([DEEP[..., :2]] * 2), photometric="minisblack", planarconfig="contig", extrasamples=["unassalpha"]
        ),
        "float PPM": b"PF 2 2 -1.0\n" + bytes(48),
    }


def make_files(folder):
    """Write all hostile files; return their paths as bytes."""
    paths = []
    for label, data in (broken_contents() | bombs_and_lies() | wrong_kinds()).items():
        (folder / f"{label}.png").write_bytes(data)
        paths.append(os.fsencode(folder / f"{label}.png"))
    for name in (b"two\nlines.png", b"\xff\xfe no utf-8.png", b"\x1b[31mred.png"):
        paths.append(os.path.join(os.fsencode(folder), name))
        with open(paths[-1], "wb") as file:
            file.write(b"no picture")
    with open(folder / "sparse.png", "wb") as file:
        file.truncate(2**41)
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(folder / "s.png"))
    server.close()
    links = {"loop.png": "pool.png", "pool.png": "loop.png", "zero.png": "/dev/zero", "terminal.png": "/dev/tty"}
    links |= {"nowhere.png": "nothing", "up.png": ".."}
    for name, target in links.items():
        (folder / name).symlink_to(target)
    special = [*links, "sparse.png", "folder.png", "pipe.png", "s.png", "missing.png", "n\0l.png", "l" * 300 + ".png"]
    return paths + [os.path.join(os.fsencode(folder), name.encode()) for name in special]


def hashes(folder):
    regular = (path for path in sorted(folder.iterdir()) if path.is_file() and path.stat().st_size < 2**30)
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in regular}


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_hostile_files_are_refused_in_one_line_quickly_in_little_memory(tmp_path):
    folder, good = tmp_path / "in", tmp_path / "good.png"
    folder.mkdir()
    good.write_bytes(PNG)
    paths = make_files(folder)
    before = hashes(folder)
    lines = "\n".join(path.hex() for path in paths)
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, good], input=lines, capture_output=True, text=True, timeout=300
    )
    results = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(paths) >= 50 and len(results) == len(paths), run.stderr
    for path, (message, seconds, peak, whole) in zip(paths, results):
        assert message and message.isprintable(), (path, message)
        assert seconds < 5 and peak < 500 and whole, (path, seconds, peak, whole)
    assert not run.stderr
    assert hashes(folder) == before


def test_a_wrong_suffix_is_no_offence(tmp_path):
    (tmp_path / "a.png").write_bytes(JPEG)
    photograph = open_photograph(tmp_path / "a.png")
    assert Image.open(io.BytesIO(photograph.encode(photograph.pixels))).format == "JPEG"


def cut(data, share=0.6):
    return data[: int(len(data) * share)]


WHOLE = {
    format: save(to_pil(NOISE.repeat(2, 0)), format) for format in ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF")
} | {
    "16-bit PPM": b"P6 48 32 65535\n" + NOISE.tobytes(),
    "16-bit PNG": save_png(DEEP.repeat(9, 0)),
    "16-bit TIFF": save_tiff(DEEP[..., :3].repeat(9, 0), photometric="rgb", compression="zlib", rowsperstrip=4),
    "16-bit grey TIFF with alpha": save_tiff(
        DEEP[..., :2].repeat(9, 0), photometric="minisblack", extrasamples=["unassalpha"]
    ),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_truncated_files_are_taken_when_allowed(kind):
    whole = open_photograph(WHOLE[kind])
    with pytest.raises(InvalidImage, match="the bytes given") as error:
        open_photograph(cut(WHOLE[kind]))
    assert "\n" not in str(error.value)
    assert not open_photograph(WHOLE[kind], allow_truncated=True).truncated
    part = open_photograph(cut(WHOLE[kind]), allow_truncated=True)
    assert part.truncated
    assert 0.3 < (part.pixels == whole.pixels).all(1).float().mean() < 1


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_pictures_that_end_in_black_or_grey_are_whole(mode):
    rows = np.arange(len(NOISE))[:, None, None] < 32
    open_photograph(save(to_pil(NOISE * rows).convert(mode), "PNG"))
    open_photograph(save_png((NOISE * rows)[::2].astype(np.uint16), interlaced=mode == "L"))
    half_grey = to_pil(np.where(rows, NOISE, 128).astype(np.uint8)).convert("L" if mode == "L" else "RGB")
    open_photograph(save(half_grey, "JPEG", optimize=True, restart_marker_blocks=3 * (mode == "P")) + b"trailer")
