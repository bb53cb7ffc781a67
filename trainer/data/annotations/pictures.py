"""The picture file behind a scene: does it open, and do boxes still lie where its pixels are shown?"""

import warnings
from typing import NamedTuple

from PIL import ExifTags, Image

from trainer.data import files
from trainer.errors import DataError

# Endings of the files that count as pictures of a folder; whether one decodes is found out when it is read.
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic", ".avif", ".jfif")
# By how much two ratios of sides may differ: sides are whole pixels, and some tools round them.
_RATIO = 0.02


class Header(NamedTuple):
    """What a picture's file says before its pixels: sides in pixels, and EXIF's orientation (0 or 1: as stored)."""

    width: int
    height: int
    orientation: int


def header(url: str) -> Header | None:
    """An image opened as far as its header, nothing decoded; None where the file is no image."""
    try:
        with files.reading(url) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file) as image:
                return Header(*image.size, int(image.getexif().get(ExifTags.Base.Orientation, 0) or 0))
    except (DataError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def turned(found: Header, size: tuple[int, int] | None) -> bool:
    """Whether boxes may lie elsewhere on the picture that a model sees: EXIF turns it, or its sides have another ratio.

    `size` is the picture's width and height as the annotations have it.
    """
    if found.orientation not in (0, 1):
        return True
    return size is not None and abs(size[0] * found.height - size[1] * found.width) > _RATIO * size[1] * found.width
