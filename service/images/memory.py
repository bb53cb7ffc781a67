"""What decoding an image takes beside its file, told from its header: the table that limits and documents go by."""

from typing import Any

from PIL import Image

from service.images.kinds import Kind

# Pillow's own bytes for each pixel by mode; every other mode takes four.
_MODES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}
# All bytes for each pixel of decoders that keep copies of their own, opaque and clear. What they take was measured by
# `python -m loadtest.images.image_memory`; an AVIF may be of 10 or 12 bits and its header be wrong about that.
_DECODERS: dict[Kind, tuple[int, int]] = {"WEBP": (17, 20), "AVIF": (16, 20), "HEIF": (9, 14)}
# Beside what grows with the pixels: bands of them (service/images/decode.py), and the decoder's own tables.
_FIXED = 16_000_000


def needed(kind: Kind, image: Image.Image) -> int:
    """Bytes that decoding `image`, opened and not loaded, to upright RGB takes at most; a JPEG's coefficients aside."""
    if kind in _DECODERS:
        pixel = _DECODERS[kind][image.has_transparency_data] * _depth(image.info)
    else:
        # The decoded image and one in RGB; or two in RGB, one of them made upright by its EXIF orientation. A GIF has a
        # frame beside its screen.
        pixel = max(_MODES.get(image.mode, 4) + 4 + (kind == "GIF"), 8)
    return image.width * image.height * pixel + _FIXED


def _depth(info: dict[Any, Any]) -> int:
    """How many bytes a decoder keeps where eight bits take one; libheif's plugin tells the bits."""
    return 2 if info.get("bit_depth", 8) > 8 else 1
