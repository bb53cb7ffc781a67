"""Scenes of one small chart: bars, a line, or a pie."""

import math

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from models.scenes.things import COLOURS, Scene, Thing, shade


def chart_scene(rng: Generator) -> Scene:
    """Two to six values as bars, a line, or a pie."""
    kind = str(rng.choice(["bars", "lines", "pie"], p=[0.5, 0.2, 0.3]))
    size = 128
    image = Image.new("RGB", (size * 2, size * 2), tuple(int(v) for v in rng.integers(235, 256, 3)))
    pen = ImageDraw.Draw(image)
    names = [str(name) for name in rng.permutation([name for name in COLOURS if name != "white"])]
    count = int(rng.integers(2, 7))
    values = rng.uniform(0.12, 0.95, count)
    if kind == "pie":
        values = values / values.sum()
        things = _pie(pen, rng, values, names)
    elif kind == "bars":
        things = _bars(pen, rng, values, names if rng.random() < 0.6 else [names[0]] * count)
    else:
        things = _line(pen, rng, values, names[0])
    return Scene(image.resize((size, size), Image.Resampling.BOX), kind, things, values=tuple(float(v) for v in values))


def _bars(pen: ImageDraw.ImageDraw, rng: Generator, values: np.ndarray, names: list[str]) -> tuple[Thing, ...]:
    pen.line([(24, 20), (24, 236), (244, 236)], fill=(0, 0, 0), width=2)
    step, things = 210 / len(values), []
    width = step * rng.uniform(0.5, 0.9)
    for number, value in enumerate(values):
        left, top = 30 + step * number, 234 - 205 * value
        pen.rectangle((left, top, left + width, 234), fill=shade(rng, names[number]))
        things.append(Thing("bar", names[number], (left / 256, top / 256, (left + width) / 256, 234 / 256)))
    return tuple(things)


def _line(pen: ImageDraw.ImageDraw, rng: Generator, values: np.ndarray, name: str) -> tuple[Thing, ...]:
    pen.line([(24, 20), (24, 236), (244, 236)], fill=(0, 0, 0), width=2)
    points = [(34 + 200 * i / (len(values) - 1), 230 - 200 * value) for i, value in enumerate(values)]
    colour = shade(rng, name)
    pen.line(points, fill=colour, width=int(rng.integers(3, 8)))
    for x, y in points:
        pen.ellipse((x - 6, y - 6, x + 6, y + 6), fill=colour)
    low, high = min(y for _, y in points), max(y for _, y in points)
    return (Thing("line", name, (34 / 256, low / 256, 234 / 256, high / 256)),)


def _pie(pen: ImageDraw.ImageDraw, rng: Generator, values: np.ndarray, names: list[str]) -> tuple[Thing, ...]:
    start, things = float(rng.uniform(0, 360)), []
    for value, name in zip(values, names, strict=False):
        end = start + 360 * value
        pen.pieslice((28, 28, 228, 228), start, end, fill=shade(rng, name), outline=(255, 255, 255))
        middle = math.radians((start + end) / 2)
        x, y, r = 0.5 + 0.24 * math.cos(middle), 0.5 + 0.24 * math.sin(middle), 0.07
        things.append(Thing("slice", name, (x - r, y - r, x + r, y + r)))
        start = end
    return tuple(things)
