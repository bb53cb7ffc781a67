"""Pictures to ask about, as bytes, no two of them alike: what was asked before would be found in a cache."""

import functools
import io
import random
import re

import numpy as np
from PIL import Image, ImageDraw

_SIDE = 64
_CAMERA = (4032, 3024)
_COLOURS = ("red", "green", "blue", "black", "orange", "purple", "navy", "gray")
_GRAIN = 6.0  # of 256, as a camera's at a middling light
_SHUFFLED = 60  # of 189 rows of blocks
_RESTARTS = [bytes((0xFF, 0xD0 + number)) for number in range(8)]


def small(number: int) -> bytes:
    """A PNG of 64 x 64 pixels, a coloured disc on white; the number is in its first pixel."""
    image = _disc(number % len(_COLOURS)).copy()
    image.putpixel((0, 0), tuple(number.to_bytes(4)[1:]))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def photo(number: int) -> bytes:
    """A JPEG of 12 megapixels and about 2 MB, as a telephone makes them, for the cost of a copy.

    The number decides the order of the upper rows of blocks, each of which is coded by itself.
    """
    head, rows, end = _photograph()
    order = [*range(len(rows))]
    order[:_SHUFFLED] = random.Random(number).sample(order[:_SHUFFLED], _SHUFFLED)
    parts = [rows[order[0]]]
    for place, row in enumerate(order[1:]):
        parts += (_RESTARTS[place % 8], rows[row])
    return b"".join((head, *parts, end))


def sized(number: int, side: int) -> bytes:
    """A JPEG of `side` x `side` pixels, grainy as a photograph."""
    image = _grainy(_disc(number % len(_COLOURS)).resize((side, side)), number)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@functools.cache
def _disc(colour: int) -> Image.Image:
    image = Image.new("RGB", (_SIDE, _SIDE), "white")
    ImageDraw.Draw(image).ellipse((16, 16, 48, 48), fill=_COLOURS[colour])
    return image


@functools.cache
def _photograph() -> tuple[bytes, list[bytes], bytes]:
    """A JPEG in parts: its head, each row of its blocks, its end marker."""
    image = Image.linear_gradient("L").resize(_CAMERA).convert("RGB")
    image.paste(_disc(2).crop((14, 14, 50, 50)).resize((1600, 1600), Image.Resampling.BICUBIC), (1200, 1300))
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
