"""The memory that decoding an image takes beside its file, by its header; docs/reference/images.md has the same."""

from typing import Any

from PIL import Image

from service.images.kinds import Kind

# Pillow's own bytes for each pixel by mode; every other mode takes four.
_MODES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}
# Bytes for each pixel, in all, with decoders that keep copies of their own: opaque, and with transparency. Measured by
# `python -m loadtest.images.image_memory`; an AVIF may have 10 or 12 bits though its header says 8, so these allow
# that.
_DECODERS: dict[Kind, tuple[int, int]] = {"WEBP": (17, 20), "AVIF": (16, 20), "HEIF": (9, 14)}
# Bytes that do not grow with the pixels: bands of them (service/images/decode.py), and the decoder's own tables.
_FIXED = 16_000_000


def needed(kind: Kind, image: Image.Image) -> int:
    """The most bytes that decoding `image`, opened and not loaded, to upright RGB takes, JPEG's coefficients aside."""
    if kind in _DECODERS:
        pixel = _DECODERS[kind][image.has_transparency_data] * _depth(image.info)
    else:
        # The decoded image and one in RGB; or two in RGB, one of them made upright by its EXIF orientation. A GIF has a
        # frame beside its screen.
        pixel = max(_MODES.get(image.mode, 4) + 4 + (kind == "GIF"), 8)
    return image.width * image.height * pixel + _FIXED


def _depth(info: dict[Any, Any]) -> int:
    """Bytes of a sample: 2 where it has over 8 bits, which Pillow's HEIF plugin tells, else 1."""
    return 2 if info.get("bit_depth", 8) > 8 else 1
