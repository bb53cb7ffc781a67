"""Bytes of an image file -> an RGB image; the cost of decoding is judged by the header, before a pixel is decoded.

The kind of file is told by its bytes. How it becomes RGB: the first frame of an animation, and the main picture of a
file of several; rotation (EXIF, or HEIC's and AVIF's own) is applied; a palette becomes its colours; 16-bit grey keeps
its high byte; transparent pixels are laid on white; CMYK and every other mode become RGB as Pillow converts them;
colour profiles are not applied. A JPEG whose longer side is at least four times the model's picture is decoded at 1/2,
1/4 or 1/8 of its size, the smallest of these that is still twice the picture: JPEG's block transform gives that for a
fraction of the work. Other images are decoded at full size. A JPEG may lack its end marker if nothing else is missing.

docs/reference/images.md has the limits, and measurements of what they save.
"""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from PIL import AvifImagePlugin, ExifTags, Image, ImageFile, UnidentifiedImageError

from service.errors import ImageBroken, ImageShapeRefused, ImageTooLarge, ImageTypeRefused
from service.images import av1, gif, jpeg, png
from service.images.kinds import Kind, known_kind
from service.images.memory import needed

# What makes an image upright, by its EXIF orientation (tag 274); any other value of it changes nothing.
_ORIENTATIONS: dict[Any, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pixels of a band, whose mode is converted at once: so the memory for that does not grow with the image.
_BAND = 250_000
# BMP's two kinds of run-length coding, which Pillow decodes in Python: a second or two for this many bytes.
_RUN_LENGTHS, _RUN_LENGTH_BYTES = (1, 2), 1_000_000
# Bytes put after a JPEG that lacks its end marker, to see whether a pixel depends on what would follow.
_FILLER = b"\x55" * 64
# Pillow's own limit only warns, and raises at twice its value; ImageLimits takes its place.
Image.MAX_IMAGE_PIXELS = None
# Pillow would decode each AVIF on as many threads as there are cores.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Limits: pixels of an image, `aspect` as its longer side over its shorter, `count` images of one question.

    `memory` is the most bytes that decoding one image may take, all working copies together, without its file.
    """

    pixels: int = 50_000_000
    aspect: float = 100.0
    count: int = 4
    memory: int = 512_000_000


DEFAULT_LIMITS = ImageLimits()


def decode(data: bytes, limits: ImageLimits = DEFAULT_LIMITS, *, side: int | None = None) -> Image.Image:
    """Decode the image file `data` to an RGB image of its own size.

    With `side`, the pixels that its longer side will be scaled to afterwards, a large JPEG is decoded at 1/2, 1/4 or
    1/8 of its size, at least twice `side`.

    Raises:
        ImageTypeRefused: no kind of file that is decoded here, or HEIC where its decoder is not installed.
        ImageTooLarge, ImageShapeRefused: over `limits`, by its header.
        ImageBroken: empty, truncated or corrupt.
    """
    if not data:
        raise ImageBroken("the image is empty: send the bytes of an image file")
    kind = known_kind(data)
    try:
        if kind == "JPEG":
            return _decode_jpeg(data, limits, side)
        return _decode(kind, _prepared(kind, data, limits), limits)
    except UnidentifiedImageError as error:
        raise ImageBroken("the image's header cannot be read: the file is truncated or corrupt") from error
    # What Pillow's decoders raise, and libheif's.
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, RuntimeError) as error:
        raise ImageBroken(f"the image does not decode ({error}): the file is truncated or corrupt") from error


def _prepared(kind: Kind, data: bytes, limits: ImageLimits) -> bytes:
    """The file as Pillow gets it: without parts that cost time or memory and do not change the picture."""
    if kind == "PNG":
        return png.still(data)
    if kind == "GIF":
        return gif.first_frame(data)
    if kind == "AVIF":
        if (pixels := av1.pixels(data)) > limits.pixels:
            raise ImageTooLarge(f"the image is of {pixels:,} pixels, over {limits.pixels:,}: scale it down")
        return av1.still(data)
    if kind == "HEIF":
        know_heif()
    return data


def know_heif() -> None:
    """Register the decoder of HEIC with Pillow, for the whole process.

    Raises:
        ImageTypeRefused: it is not installed.
    """
    try:
        import pillow_heif
    except ImportError as error:
        raise ImageTypeRefused(
            "the image is a HEIC file, which this service has no decoder for (the extra `heic` installs one): "
            "convert it to JPEG"
        ) from error
    pillow_heif.register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)


def _decode_jpeg(data: bytes, limits: ImageLimits, side: int | None) -> Image.Image:
    course = jpeg.judge(data)
    if course.ended:
        return _decode("JPEG", data, limits, side, course.coefficients)
    # Pillow decodes no file without an end marker. If only that is missing, other bytes before it change no pixel.
    data = data.rstrip(jpeg.END[:1])
    digest = _digest(_decode("JPEG", data + _FILLER + jpeg.END, limits, side, course.coefficients))
    image = _decode("JPEG", data + jpeg.END, limits, side, course.coefficients)
    if _digest(image) != digest:
        raise ImageBroken("the image is a JPEG whose last part is missing: the file is truncated")
    return image


def _digest(image: Image.Image) -> bytes:
    digest = hashlib.sha256()
    for _, band in _bands(image):
        digest.update(band.tobytes())
    return digest.digest()


def _decode(
    kind: Kind, data: bytes, limits: ImageLimits, side: int | None = None, coefficients: int = 0
) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=(kind,)) as image:
        _judge_shape(image, limits)
        if side is not None:
            _shrink(image, 2 * side)
        _judge_cost(kind, image, len(data), coefficients, limits)
        image.load()
        # Pillow's own exif_transpose also rewrites the EXIF, and fails on some.
        transposed = _ORIENTATIONS.get(image.getexif().get(ExifTags.Base.Orientation))
        rgb = _to_rgb(image)
        if rgb is not image:
            image.close()  # frees its pixels
        return rgb if transposed is None else rgb.transpose(transposed)


def _judge_shape(image: Image.Image, limits: ImageLimits) -> None:
    width, height = image.size
    if width * height > limits.pixels:
        raise ImageTooLarge(f"the image is {width}x{height}, over {limits.pixels:,} pixels: scale it down")
    if max(width, height) > limits.aspect * min(width, height):
        raise ImageShapeRefused(
            f"the image is {width}x{height}, longer than {limits.aspect:g} times its width: crop it"
        )


def _judge_cost(kind: Kind, image: ImageFile.ImageFile, size: int, coefficients: int, limits: ImageLimits) -> None:
    if kind == "BMP" and image.info.get("compression") in _RUN_LENGTHS and size > _RUN_LENGTH_BYTES:
        raise ImageTooLarge(f"the image is a BMP in run lengths of over {_RUN_LENGTH_BYTES:,} bytes: send it as PNG")
    if (memory := needed(kind, image) + coefficients) > limits.memory:
        raise ImageTooLarge(
            f"the image would take {memory:,} bytes to decode, over {limits.memory:,}: scale it down"
            + (", or save it as a baseline JPEG" if coefficients else "")
        )


def _shrink(image: ImageFile.ImageFile, least: int) -> None:
    """Have a JPEG decoded at 1/2, 1/4 or 1/8 of its size if its longer side is then `least` pixels or more."""
    factor = next((factor for factor in (8, 4, 2) if max(image.size) >= factor * least), 1)
    if factor > 1:
        width, height = image.size
        image.draft(None, (max(1, width // factor), max(1, height // factor)))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode in ("P", "PA") and image.palette is None:
        raise ImageBroken("the image's pixels name colours of a palette that it lacks: the file is corrupt")
    rgb = Image.new("RGB", image.size)
    for top, band in _bands(image):
        rgb.paste(_band_to_rgb(band), (0, top))
    return rgb


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The image in bands of some rows, from top to bottom, each with the row that it begins at."""
    height = max(1, _BAND // image.width)
    for top in range(0, image.height, height):
        yield top, image.crop((0, top, image.width, min(top + height, image.height)))


def _band_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip rather than scale
        return image.convert("I").point(lambda value: value / 256).convert("L").convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
