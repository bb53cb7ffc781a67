"""Scenes of one printed character or a short word, in several fonts, bent, blurred, noisy or seen very coarsely."""

import math
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from models.scenes.things import COLOURS, GLYPHS, RGB, Box, Scene, Thing, ground, shade

FONTS = (
    "DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSans-Oblique.ttf", "DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf",
    "DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSerif-Italic.ttf", "cmr10.ttf", "cmss10.ttf", "cmtt10.ttf",
    "STIXGeneral.ttf", "STIXGeneralItalic.ttf",
)  # fmt: skip


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf" / name), size)


def text_scene(rng: Generator, one: bool) -> Scene:
    """One character, or a word of two or three, in any ink."""
    if one:
        text = str(rng.integers(10)) if rng.random() < 0.65 else GLYPHS[int(rng.integers(10, 36))]
    elif rng.random() < 0.6:
        text = str(rng.integers(10, 1000))
    else:
        text = "".join(GLYPHS[i] for i in rng.integers(10, 36, int(rng.integers(2, 4))))
    size = 96
    colour_name = str(rng.choice([name for name in COLOURS if name != "white"]))
    light_on_dark = rng.random() < 0.35
    ink: RGB = shade(rng, colour_name)
    if light_on_dark:
        colour_name, ink = "white", (int(rng.integers(200, 256)),) * 3
    paper = ground(rng, (size, size), dark=light_on_dark)
    mask, box, centres = _ink(rng, text, size, rng.uniform(0.35, 0.95) if one else rng.uniform(0.6, 0.95))
    image = Image.composite(Image.new("RGB", (size, size), ink), paper, mask)
    if one and rng.random() < 0.5:  # seen through a very coarse camera
        cells = int(rng.integers(8, 17))
        image = image.resize((cells, cells), Image.Resampling.BOX)
        smooth = rng.random() < 0.5
        image = image.resize((64, 64), Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST)
    elif rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.4, 2))))
    if rng.random() < 0.2:
        noisy = np.asarray(image, float) + rng.normal(0, rng.uniform(3, 20), (*image.size[::-1], 3))
        image = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    width = (box[2] - box[0]) / len(text)
    things = tuple(
        Thing("glyph", colour_name, (max(0, x - width / 2), box[1], min(1, x + width / 2), box[3]), character)
        for x, character in zip(centres, text, strict=True)
    )
    return Scene(image, "text", things, text)


def _ink(rng: Generator, text: str, size: int, height: float) -> tuple[Image.Image, Box, list[float]]:
    big = 2 * size
    font = _font(FONTS[int(rng.integers(len(FONTS)))], 96)
    stroke = int(rng.choice([0, 0, 2, 4, 7]))
    left, top, right, bottom = font.getbbox(text, stroke_width=stroke)
    word = Image.new("L", (int(right - left) + 4, int(bottom - top) + 4))
    ImageDraw.Draw(word).text((2 - left, 2 - top), text, font=font, fill=255, stroke_width=stroke)
    tall = height * size
    wide = min(0.95 * size, tall * word.width / word.height * rng.uniform(0.75, 1.3))
    word = word.resize((max(4, int(wide * 2)), max(4, int(tall * 2))), Image.Resampling.BILINEAR)
    canvas = Image.new("L", (big, big))
    x = int(rng.integers(0, max(1, big - word.width)))
    y = int(rng.integers(0, max(1, big - word.height)))
    canvas.paste(word, (x, y))
    angle, shear = rng.normal(0, 7), rng.normal(0, 0.12)
    cos, sin, c = math.cos(math.radians(angle)), math.sin(math.radians(angle)), big / 2
    a, b, d, e = cos, sin + shear, -sin, cos
    canvas = canvas.transform((big, big), Image.Transform.AFFINE, (a, b, c - a * c - b * c, d, e, c - d * c - e * c),
                              Image.Resampling.BILINEAR).resize((size, size), Image.Resampling.BOX)  # fmt: skip
    found = canvas.getbbox() or (0, 0, size, size)
    left, top, right, bottom = (edge / size for edge in found)
    box = (left, top, right, bottom)
    step = (box[2] - box[0]) / len(text)
    return canvas, box, [box[0] + step * (i + 0.5) for i in range(len(text))]
