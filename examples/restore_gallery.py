"""Restore the pictures in examples/images and put them side by side: before above, after below.

python examples/restore_gallery.py before_after.jpg
"""

import sys
from pathlib import Path

from PIL import Image

import dcpt

NAMES = ("rain.png", "noise.png", "haze.png")
GAP = 8


def main(output: str) -> None:
    folder = Path(__file__).parent / "images"
    restorer = dcpt.Restorer()
    before = [Image.open(folder / name) for name in NAMES]
    after = [restorer.restore(image) for image in before]
    width, height = before[0].size
    sheet = Image.new("RGB", (3 * width + 2 * GAP, 2 * height + GAP), "white")
    for column, pair in enumerate(zip(before, after)):
        for row, image in enumerate(pair):
            sheet.paste(image, (column * (width + GAP), row * (height + GAP)))
    sheet.save(output, quality=92)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "before_after.jpg")
