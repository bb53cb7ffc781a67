"""Scenes of one to five coloured shapes, plain or smoothed, from tiny to half the picture."""

import math

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from models.scenes.things import COLOURS, RGB, SHAPES, Box, Scene, Thing, ground, shade

SHARES = np.array([3, 1, 2, 3, 3, 1, 1, 1, 1, 1]) / 17


def shapes_scene(rng: Generator, count: int) -> Scene:
    """At most `count` shapes that do not touch; one alone may be larger."""
    size = _side(rng)
    dark = rng.random() < 0.12
    scale = 1 if rng.random() < 0.6 else 3
    canvas = ground(rng, size, dark).resize((size[0] * scale, size[1] * scale))
    pen = ImageDraw.Draw(canvas)
    short = min(size)
    things: list[Thing] = []
    for _ in range(count):
        kind = str(rng.choice(SHAPES, p=SHARES))
        colour = str(rng.choice([name for name in COLOURS if name not in (("black",) if dark else ("white",))]))
        largest = 0.55 if count == 1 else 0.32
        for _ in range(12):
            length = float(np.exp(rng.uniform(math.log(max(0.065, 4.5 / short)), math.log(largest)))) * short
            box = _place(rng, kind, length, size)
            if all(_apart(box, thing.box) for thing in things):
                _shape(pen, rng, kind, _scaled(box, size, scale), shade(rng, colour))
                things.append(Thing(kind, colour, box))
                break
    if scale > 1:
        canvas = canvas.resize(size, Image.Resampling.BOX)
    return Scene(canvas, "shapes", tuple(things))


def _side(rng: Generator) -> tuple[int, int]:
    side = int(rng.choice([64, 96, 128, 192, 256], p=[0.45, 0.15, 0.25, 0.1, 0.05]))
    if rng.random() < 0.15:
        return side, max(48, int(side * rng.uniform(0.5, 1)))
    return side, side


def _place(rng: Generator, kind: str, length: float, size: tuple[int, int]) -> Box:
    width = height = length
    if kind in ("rectangle", "oval"):
        ratio = rng.uniform(1.25, 3)
        width, height = (length, length / ratio) if rng.random() < 0.5 else (length / ratio, length)
        floor = 3.0
        width, height = max(width, floor), max(height, floor)
        if max(width, height) / min(width, height) < 1.2:
            width *= 1.4
    elif kind == "triangle":
        height = length * rng.uniform(0.8, 1.05)
    whole = rng.random() < 0.5
    x, y = rng.uniform(0, max(1, size[0] - width)), rng.uniform(0, max(1, size[1] - height))
    if whole:
        x, y, width, height = round(x), round(y), max(3, round(width)), max(3, round(height))
    return x / size[0], y / size[1], (x + width) / size[0], (y + height) / size[1]


def _scaled(box: Box, size: tuple[int, int], scale: int) -> Box:
    left, top, right, bottom = box
    width, height = size[0] * scale, size[1] * scale
    return left * width, top * height, right * width, bottom * height


def _apart(a: Box, b: Box) -> bool:
    return a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1]


def _shape(pen: ImageDraw.ImageDraw, rng: Generator, kind: str, box: Box, colour: RGB) -> None:
    left, top, right, bottom = box
    outline = (0, 0, 0) if rng.random() < 0.08 and right - left > 20 else None
    if kind in ("circle", "oval"):
        pen.ellipse(box, fill=colour, outline=outline)
    elif kind == "ring":
        pen.ellipse(box, outline=colour, width=max(1, round((right - left) * 0.22)))
    elif kind in ("square", "rectangle"):
        pen.rectangle(box, fill=colour, outline=outline)
    else:
        x, y, rx, ry = (left + right) / 2, (top + bottom) / 2, (right - left) / 2, (bottom - top) / 2
        pen.polygon([(x + rx * px, y + ry * py) for px, py in _outline(kind, rng)], fill=colour, outline=outline)


def _outline(kind: str, rng: Generator) -> list[tuple[float, float]]:
    if kind == "triangle":
        points = [(-1.0, 1.0), (0.0, -1.0), (1.0, 1.0)]
        return [(x, -y) for x, y in points] if rng.random() < 0.12 else points
    if kind == "diamond":
        return [(0, -1), (1, 0), (0, 1), (-1, 0)]
    if kind == "cross":
        t = 0.33
        return [
            (-t, -1),
            (t, -1),
            (t, -t),
            (1, -t),
            (1, t),
            (t, t),
            (t, 1),
            (-t, 1),
            (-t, t),
            (-1, t),
            (-1, -t),
            (-t, -t),
        ]
    corners, inner = (5, 1.0) if kind == "pentagon" else (10, 0.42)
    return [
        (
            (inner if corner % 2 and corners == 10 else 1) * math.sin(2 * math.pi * corner / corners),
            -(inner if corner % 2 and corners == 10 else 1) * math.cos(2 * math.pi * corner / corners),
        )
        for corner in range(corners)
    ]
