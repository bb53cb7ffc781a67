"""What a scene is made of, the palette, and the ground it is drawn on."""

from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator
from PIL import Image

RGB = tuple[int, int, int]
Box = tuple[float, float, float, float]

# CSS's named colours, with two or three of their usual shades each.
COLOURS: dict[str, tuple[RGB, ...]] = {
    "red": ((255, 0, 0), (220, 20, 60), (200, 0, 0)),
    "green": ((0, 255, 0), (0, 128, 0), (50, 205, 50)),
    "blue": ((0, 0, 255), (30, 60, 220), (0, 0, 160)),
    "yellow": ((255, 255, 0), (255, 225, 0)),
    "orange": ((255, 165, 0), (255, 140, 0)),
    "purple": ((128, 0, 128), (148, 0, 211)),
    "pink": ((255, 192, 203), (255, 105, 180)),
    "brown": ((165, 42, 42), (139, 69, 19)),
    "black": ((0, 0, 0), (20, 20, 20)),
    "white": ((255, 255, 255), (245, 245, 245)),
    "gray": ((128, 128, 128), (105, 105, 105), (150, 150, 150)),
    "teal": ((0, 128, 128), (0, 139, 139)),
    "cyan": ((0, 255, 255), (64, 224, 238)),
}
SHAPES = ("circle", "oval", "square", "rectangle", "triangle", "diamond", "pentagon", "star", "cross", "ring")
GLYPHS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
CHARTS = ("bar", "line", "slice")


@dataclass(frozen=True, slots=True)
class Thing:
    """One thing on a scene: `kind` a shape, "glyph" or a chart part; its box as fractions of the picture's sides."""

    kind: str
    colour: str
    box: Box
    glyph: str = ""

    @property
    def centre(self) -> tuple[float, float]:
        """Middle of the box."""
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2

    @property
    def size(self) -> float:
        """Longer side of the box."""
        left, top, right, bottom = self.box
        return max(right - left, bottom - top)


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture and what is on it; `kind` is "shapes", "text", "bars", "lines" or "pie"."""

    image: Image.Image
    kind: str
    things: tuple[Thing, ...]
    text: str = ""
    values: tuple[float, ...] = field(default=())


def shade(rng: Generator, name: str) -> RGB:
    """One of a colour's usual shades, half the time a little off."""
    shades = COLOURS[name]
    chosen = shades[0] if rng.random() < 0.6 else shades[int(rng.integers(len(shades)))]
    jitter = rng.integers(-14, 15, 3) if rng.random() < 0.5 else np.zeros(3, int)
    return tuple(int(v) for v in np.clip(np.array(chosen) + jitter, 0, 255))  # type: ignore[return-value]


def ground(rng: Generator, size: tuple[int, int], dark: bool = False) -> Image.Image:
    """A plain tint mostly; sometimes graded from top to bottom, sometimes noisy."""
    width, height = size
    low, high = (0, 50) if dark else (225, 256) if rng.random() < 0.8 else (180, 256)
    ground = np.broadcast_to(rng.integers(low, high, 3).astype(float), (height, width, 3))
    style = rng.random()
    if style > 0.85:
        ground = ground + rng.normal(0, rng.uniform(2, 12), (height, width, 3))
    elif style > 0.7:
        ground = ground + np.linspace(-20, 20, height)[:, None, None]
    return Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))
