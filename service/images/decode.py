"""Bytes of a PNG, JPEG or WebP file -> an RGB image, by a written rule; the header is judged before a pixel is decoded.

The rule: EXIF rotation is applied; a palette becomes its colours; 16-bit grey keeps its high byte; transparency lies on
white; CMYK and every other mode become RGB as Pillow converts them. Only still images pass. A JPEG whose
longer side is at least four times the picture's is decoded at 1/2, 1/4 or 1/8, whichever is the smallest that keeps it
twice the picture's: its own transform gives that for a fraction of the work. Smaller images keep every pixel.
"""

import io
from dataclasses import dataclass
from typing import Any

from PIL import ExifTags, Image, UnidentifiedImageError

from service.errors import ImageBroken, ImageShapeRefused, ImageTooLarge, ImageTypeRefused

FORMATS = ("PNG", "JPEG", "WEBP")
# The first bytes of FORMATS: what lacks them never reaches a decoder.
MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF")
# Other names of those types, and what a form says of a file it knows nothing of.
_ALIASES = {"image/jpg": "image/jpeg", "image/pjpeg": "image/jpeg", "image/x-png": "image/png"}
_UNKNOWN = (None, "", "application/octet-stream")
_TURNS: dict[Any, Image.Transpose] = {  # by what EXIF says, whatever that is
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow's own guard warns first and raises only at twice its limit; ImageLimits is stricter and set per service.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What we are willing to decode: pixels of an image, its longer side over its shorter, images of one question."""

    pixels: int = 50_000_000
    aspect: float = 100.0
    count: int = 4


DEFAULT_LIMITS = ImageLimits()


def decode(
    data: bytes, limits: ImageLimits = DEFAULT_LIMITS, *, mime: str | None = None, side: int | None = None
) -> Image.Image:
    """Decode `data`, claimed to be of type `mime`, to an RGB image of its own size.

    Given `side`, what its longer side will be scaled to, a large JPEG comes smaller, yet twice that at least.

    Raises:
        ImageTypeRefused: not a still PNG, JPEG or WebP, or another of these than `mime`.
        ImageTooLarge, ImageShapeRefused: over `limits`, by the header alone.
        ImageBroken: empty, truncated or corrupt.
    """
    if not data:
        raise ImageBroken("the image is empty: send the bytes of a PNG, JPEG or WebP file")
    if not data.startswith(MAGIC):
        raise ImageTypeRefused("the image is not a PNG, JPEG or WebP file: convert it to one of these")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _judge_header(image, limits)
            _judge_claim(image, mime)
            if side is not None:
                _shrink(image, 2 * side)
            image.load()
            return _to_rgb(_upright(image))
    except UnidentifiedImageError as error:
        raise ImageBroken("the image's header cannot be read: the file is truncated or corrupt") from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError) as error:  # what Pillow's decoders raise
        raise ImageBroken(f"the image does not decode ({error}): the file is truncated or corrupt") from error


def _judge_header(image: Image.Image, limits: ImageLimits) -> None:
    width, height = image.size
    if width * height > limits.pixels:
        raise ImageTooLarge(f"the image is {width}x{height}, over {limits.pixels:,} pixels: scale it down")
    if max(width, height) > limits.aspect * min(width, height):
        raise ImageShapeRefused(
            f"the image is {width}x{height}, longer than {limits.aspect:g} times its width: crop it"
        )
    # An MPO is a phone's JPEG with more pictures behind the first, which is the photo.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise ImageTypeRefused("the image is animated: send one frame as PNG, JPEG or WebP")


def _judge_claim(image: Image.Image, mime: str | None) -> None:
    claimed = mime.partition(";")[0].strip().lower() if mime else None
    found = "image/jpeg" if image.format == "MPO" else Image.MIME[image.format or ""]
    if claimed not in _UNKNOWN and _ALIASES.get(claimed or "", claimed) != found:
        raise ImageTypeRefused(f"the image was sent as {claimed[:64]!r} but is {found}: send it under its own type")


def _shrink(image: Image.Image, least: int) -> None:
    """Have a JPEG decoded at 1/2, 1/4 or 1/8 where its longer side stays `least` at least; others are left alone."""
    factor = next((factor for factor in (8, 4, 2) if max(image.size) >= factor * least), 1)
    if factor > 1:
        width, height = image.size
        image.draft(None, (max(1, width // factor), max(1, height // factor)))


def _upright(image: Image.Image) -> Image.Image:
    """As its EXIF orientation has it. Pillow's own exif_transpose also writes the EXIF anew, and dies of odd ones."""
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip rather than scale
        return image.convert("I").point(lambda value: value / 256).convert("L").convert("RGB")
    if image.mode in ("P", "PA") and image.palette is None:
        raise ImageBroken("the image's pixels name colours of a palette that it lacks: the file is corrupt")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
