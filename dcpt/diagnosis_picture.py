"""A diagnosis to look at: the photograph with its parts outlined, and bars of all probabilities."""

from __future__ import annotations

from typing import Any

from PIL import Image, ImageDraw, ImageFont

from dcpt.diagnosis import LIKELY, Diagnosis, Tile
from dcpt.image import read_picture
from dcpt.recipe import CLEAN

LONGER_SIDE = 900  # pixels, of the photograph in the picture
PANEL, ROW, MARGIN = 340, 30, 16
LABEL_WIDTH, NUMBER_WIDTH = 124, 54
INK, PAPER, RULE = "#222222", "#ffffff", "#dddddd"
# Okabe and Ito's eight, which people of any colour vision tell apart, and two greys; clean is green.
COLOURS = (
    "#e69f00", "#56b4e9", "#0072b2", "#d55e00", "#cc79a7", "#b0e0ff", "#8060c0", "#f0e442", "#606060", "#a05020",
)  # fmt: skip
CLEAN_COLOUR = "#009e73"


def annotate(image: Any, diagnosis: Diagnosis) -> Image.Image:
    """Draw a diagnosis beside the picture it is of.

    Args:
        image: The picture, of any kind that `dcpt.diagnose` takes.
        diagnosis: What was found.

    Returns:
        The photograph, at most `LONGER_SIDE` pixels, each part outlined in the colour of what is
        likely there; beside it a bar per degradation, below it the summary.
    """
    photograph, scale = shrink(image)
    colours = choose_colours(diagnosis)
    draw = ImageDraw.Draw(photograph)
    for tile in diagnosis.map:
        outline(draw, tile, scale, colours)
    bars = len(colours) * ROW + MARGIN
    height = max(photograph.height, bars) + ROW + 2 * MARGIN
    width = 3 * MARGIN + max(photograph.width, 200) + PANEL
    sheet = Image.new("RGB", (width, height), PAPER)
    sheet.paste(photograph, (MARGIN, MARGIN))
    draw = ImageDraw.Draw(sheet)
    draw_bars(draw, diagnosis, colours, left=width - PANEL - MARGIN)
    font = fit_font(draw, diagnosis.summary, width - 2 * MARGIN)
    draw.text((MARGIN, height - MARGIN - ROW // 2), diagnosis.summary, INK, font, anchor="lm")
    return sheet


def shrink(image: Any) -> tuple[Image.Image, float]:
    """Return a picture as RGB, at most `LONGER_SIDE` pixels, and by what factor it was scaled."""
    pixels, _ = read_picture(image)
    array = (pixels[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    photograph = Image.fromarray(array)
    scale = min(1.0, LONGER_SIDE / max(photograph.size))
    size = (max(1, round(photograph.width * scale)), max(1, round(photograph.height * scale)))
    return photograph.resize(size, Image.Resampling.LANCZOS), scale


def choose_colours(diagnosis: Diagnosis) -> dict[str, str]:
    """Return a colour per finding, clean last."""
    names = diagnosis.probabilities
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)} | {CLEAN: CLEAN_COLOUR}


def outline(draw: ImageDraw.ImageDraw, tile: Tile, scale: float, colours: dict[str, str]) -> None:
    """Outline a part of the picture and name what is likely there; where nothing is, leave it alone."""
    likely = [item for item in tile.probabilities.items() if item[1] >= LIKELY]
    likely.sort(key=lambda item: -item[1])
    left, top, right, bottom = (round(side * scale) for side in tile.box)
    if not likely or right - left < 8 or bottom - top < 8:
        return
    draw.rectangle((left + 1, top + 1, right - 2, bottom - 2), outline=colours[likely[0][0]], width=3)
    text = "\n".join(f"{name.replace('_', ' ')} {probability:.0%}" for name, probability in likely)
    font = ImageFont.load_default(13)
    box = draw.multiline_textbbox((left + 7, top + 5), text, font)
    if box[2] + 4 < right and box[3] + 3 < bottom:
        draw.rectangle((left + 3, top + 3, box[2] + 4, box[3] + 3), fill=PAPER)
        draw.multiline_text((left + 7, top + 5), text, INK, font)


def draw_bars(draw: ImageDraw.ImageDraw, diagnosis: Diagnosis, colours: dict[str, str], *, left: int) -> None:
    """Draw a bar per degradation and one for clean."""
    values = diagnosis.probabilities | {CLEAN: diagnosis.clean_probability}
    font = ImageFont.load_default(15)
    start, length = left + LABEL_WIDTH, PANEL - LABEL_WIDTH - NUMBER_WIDTH
    for row, (name, value) in enumerate(values.items()):
        top = MARGIN + row * ROW
        middle = top + ROW // 2
        draw.text((start - 8, middle), name.replace("_", " "), INK, font, anchor="rm")
        draw.rectangle((start, top + 6, start + length, top + ROW - 6), fill=RULE)
        if value >= 0.005:
            draw.rectangle((start, top + 6, start + round(length * value), top + ROW - 6), fill=colours[name])
        draw.text((left + PANEL, middle), f"{value:.0%}", INK, font, anchor="rm")


def fit_font(draw: ImageDraw.ImageDraw, text: str, width: int) -> Any:
    """Return the largest font, up to 20 pixels, in which a text fits the width; never below 8."""
    fonts = (ImageFont.load_default(size) for size in range(20, 7, -1))
    font = next(fonts)
    while draw.textlength(text, font) > width and (smaller := next(fonts, None)):
        font = smaller
    return font
