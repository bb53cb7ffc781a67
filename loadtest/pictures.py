"""Pictures to ask about, as bytes; each number gives another picture, since a server would find the same in a cache."""

import functools
import io
import random
import re

import numpy as np
from PIL import Image, ImageDraw

_SIDE = 64
_CAMERA = (4032, 3024)
_COLOURS = ("red", "green", "blue", "black", "orange", "purple", "navy", "gray")
_GRAIN = 6.0  # standard deviation of the noise, of 256 levels, as a camera's in medium light
_RESTARTS = [bytes((0xFF, 0xD0 + number)) for number in range(8)]


def small(number: int) -> bytes:
    """A PNG of 64 x 64 pixels, a coloured disc on white; the number is in its first pixel."""
    image = _disc(number % len(_COLOURS)).copy()
    image.putpixel((0, 0), tuple(number.to_bytes(4)[1:]))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def photo(number: int, size: tuple[int, int] = _CAMERA) -> bytes:
    """A JPEG like a phone's, of 12 megapixels and 3 MB, for the cost of a copy.

    The number decides the order of the upper third of its rows of blocks, each of which is coded by itself. A small one
    has few orders: 5,040 at 336 pixels.
    """
    head, rows, end = _photograph(size)
    order = [*range(len(rows))]
    upper = len(rows) // 3
    order[:upper] = random.Random(number).sample(order[:upper], upper)
    parts = [rows[order[0]]]
    for place, row in enumerate(order[1:]):
        parts += (_RESTARTS[place % 8], rows[row])
    return b"".join((head, *parts, end))


@functools.cache
def _disc(colour: int) -> Image.Image:
    image = Image.new("RGB", (_SIDE, _SIDE), "white")
    ImageDraw.Draw(image).ellipse((16, 16, 48, 48), fill=_COLOURS[colour])
    return image


@functools.cache
def _photograph(size: tuple[int, int]) -> tuple[bytes, list[bytes], bytes]:
    """A JPEG in parts: its head, each row of its blocks, its end marker."""
    width, height = size
    image, side = Image.linear_gradient("L").resize(size).convert("RGB"), height // 2
    disc = _disc(2).crop((14, 14, 50, 50)).resize((side, side), Image.Resampling.BICUBIC)
    image.paste(disc, ((width - side) // 2, height - side - side // 8))
    buffer = io.BytesIO()
    _grainy(image, 0).save(buffer, "JPEG", quality=90, restart_marker_rows=1)
    jpeg = buffer.getvalue()
    scan = jpeg.index(b"\xff\xda")
    start = scan + 2 + int.from_bytes(jpeg[scan + 2 : scan + 4])
    return jpeg[:start], re.split(rb"\xff[\xd0-\xd7]", jpeg[start:-2]), jpeg[-2:]


def _grainy(image: Image.Image, seed: int) -> Image.Image:
    pixels = np.asarray(image, dtype=np.float32)
    grain = np.random.default_rng(seed).standard_normal(pixels.shape[:2], dtype=np.float32)[..., None] * _GRAIN
    return Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8))
