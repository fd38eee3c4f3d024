"""Show the ten degradations of one photograph at three severities, as one picture.

python examples/degradation_sheet.py PHOTO degradations.jpg
"""

import sys

from PIL import Image, ImageDraw, ImageOps

import dcpt

SIDE, SEVERITIES = 192, (0.1, 0.5, 1.0)


def main(photo: str, output: str) -> None:
    clean = ImageOps.fit(Image.open(photo).convert("RGB"), (SIDE, SIDE))
    names = dcpt.list_degradations()
    sheet = Image.new("RGB", (5 * SIDE, 2 * len(SEVERITIES) * SIDE))
    draw = ImageDraw.Draw(sheet)
    for index, name in enumerate(names):
        for row, severity in enumerate(SEVERITIES):
            corner = (index % 5 * SIDE, (index // 5 * len(SEVERITIES) + row) * SIDE)
            sheet.paste(dcpt.degrade(clean, seed=index, **{name: severity}), corner)
            label = (corner[0] + 5, corner[1] + 5)
            draw.text(label, f"{name} {severity}", fill="white", stroke_width=2, stroke_fill="black")
    sheet.save(output, quality=88)


if __name__ == "__main__":
    main(*sys.argv[1:3])
