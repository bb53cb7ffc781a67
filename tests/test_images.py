"""Decoding by the written rule, limits judged from the header, and the square picture the model sees."""

import io
import struct
import subprocess
import sys
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from service.errors import ImageBroken, ImageShapeRefused, ImageTypeRefused, ServiceError
from service.images import ImageLimits, Preparation, decode, picture
from tests.conftest import CHECKPOINT, ROOT, png

PREPARATION = Preparation(128, (123, 117, 104))


def encode(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def png_header(width: int, height: int, colour: int = 0) -> bytes:
    """A 1-bit PNG of any size, and of a colour type, whose pixel data is almost nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, colour, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def outcome(data: bytes) -> str | int:
    """The decoded image's mode, or the status of the typed error; anything else raises."""
    try:
        return decode(data, ImageLimits(pixels=1_000_000)).mode
    except ServiceError as error:
        return error.status


@pytest.fixture(autouse=True, scope="module")
def heic() -> None:
    """Pillow writes HEIC too."""
    import pillow_heif

    pillow_heif.register_heif_opener()


FORMATS = ["PNG", "JPEG", "WEBP", "GIF", "BMP", "AVIF", "HEIF"]


@pytest.mark.parametrize("file_format", FORMATS)
def test_the_formats_decode_to_rgb_of_their_own_size(file_format: str) -> None:
    image = decode(png(size=(60, 40), file_format=file_format))
    assert (image.mode, image.size) == ("RGB", (60, 40))


def test_no_bytes_are_broken() -> None:
    with pytest.raises(ImageBroken, match="empty"):
        decode(b"")


def deep(grey: Image.Image) -> Image.Image:
    """The same grey in 16 bits."""
    return Image.frombytes("I;16", grey.size, bytes(byte for value in grey.tobytes() for byte in (0, value)))


def animated(file_format: str) -> bytes:
    """Two frames."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    return encode(frames[0], file_format, save_all=True, append_images=frames[1:], lossless=True)


OTHERS = [
    b"<html></html>",
    b"<svg/>",
    b"%PDF-1.7",
    b"%!PS-Adobe-3.0 EPSF-3.0",
    b"II*\0" + bytes(64),
    b"MM\0*" + bytes(64),
]
OTHERS += [
    b"SIMPLE  =                    T",
    b"8BPS",
    b"BM" + bytes(64),
    b"BMP is a format of images",
    b"RIFF\x40\0\0\0WAVE" + bytes(64),
    b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom",
    b"\0\0\0\x0cjP  \r\n\x87\n",
    b"\0\0\1\0" + bytes(64),
    b"P6 1 1 255\n",
]


@pytest.mark.parametrize("data", OTHERS)
def test_other_types_are_refused(data: bytes) -> None:
    with pytest.raises(ImageTypeRefused):
        decode(data)


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_truncated_file_is_broken(file_format: str) -> None:
    data = encode(Image.effect_noise((200, 200), 90).convert("RGB"), file_format)
    with pytest.raises(ImageBroken):
        decode(data[: len(data) // 2])


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "GIF", "AVIF"])
def test_of_an_animation_the_first_frame_is_decoded(file_format: str) -> None:
    image = decode(animated(file_format))
    assert image.size == (8, 8)
    red, green, blue = image.getpixel((3, 3))  # type: ignore[misc]
    assert red > 250
    assert max(green, blue) < 5


# In a process of its own: only there does the high-water mark of memory, Pillow's own included, tell of this image.
BOMB = """
import resource, sys, time
from service.errors import ImageTooLarge
from service.images import decode
decode(sys.stdin.buffer.read(int(sys.argv[1])))  # a small one first, so that what Pillow does once is done
data, before = sys.stdin.buffer.read(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.process_time()
try:
    decode(data)
except ImageTooLarge as error:
    print(error, time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, sep="|")
"""


@pytest.mark.parametrize("side", [13_000, 20_000])
def test_a_bomb_is_refused_from_its_header_in_50_ms_and_50_mb(side: int) -> None:
    small, command = png(), [sys.executable, "-c", BOMB, str(len(png()))]
    told = subprocess.run(command, input=small + png_header(side, side), capture_output=True, check=True, cwd=ROOT)
    words, seconds, kib = told.stdout.decode().split("|")
    assert f"{side}x{side}" in words
    assert float(seconds) < 0.05
    assert int(kib) < 50_000


def test_a_sliver_is_refused() -> None:
    with pytest.raises(ImageShapeRefused, match="1x5000"):
        decode(png_header(1, 5000))


def test_the_written_rule_for_modes() -> None:
    grey = Image.new("L", (4, 4), 200)
    assert decode(encode(grey)).getpixel((0, 0)) == (200, 200, 200)
    palette = Image.new("RGB", (4, 4), (10, 200, 30)).quantize(2)
    assert decode(encode(palette)).getpixel((0, 0)) == (10, 200, 30)
    clear = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    assert decode(encode(clear)).getpixel((0, 0)) == (255, 255, 255)
    deep = Image.new("I;16", (4, 4), 200 * 256)
    assert decode(encode(deep)).getpixel((0, 0)) == (200, 200, 200)
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    red, green, blue = decode(encode(cmyk, "JPEG")).getpixel((0, 0))  # type: ignore[misc]
    assert red > 200
    assert max(green, blue) < 60


@pytest.mark.parametrize("orientation", [*range(10), 65_535])
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
def test_exif_rotation_is_applied_as_pillow_does(orientation: int, file_format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.effect_noise((40, 20), 90).convert("RGB"), file_format, exif=exif)
    turned = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert decode(data).size == turned.size == ((20, 40) if orientation in (5, 6, 7, 8) else (40, 20))
    assert decode(data).tobytes() == turned.tobytes()


def test_a_palette_image_without_a_palette_is_broken() -> None:
    """Found by the fuzz."""
    with pytest.raises(ImageBroken, match="palette"):
        decode(png_header(8, 8, colour=3))


def test_exif_that_cannot_be_written_again_harms_nobody() -> None:
    """Found by the fuzz: text under a tag that holds numbers, which Pillow reads but cannot write."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "described"
    data = encode(Image.new("RGB", (40, 20)), "PNG", exif=exif)
    at = data.index(b"eXIf") - 4
    end = at + 12 + int.from_bytes(data[at : at + 4])
    described = bytearray(data[at + 4 : end - 4])
    tag = described.index(b"\x01\x0e") if b"\x01\x0e" in described else described.index(b"\x0e\x01")
    described[tag : tag + 2] = b"\x01\x11" if described[tag] == 1 else b"\x11\x01"  # StripOffsets
    odd = data[: at + 4] + described + struct.pack(">I", zlib.crc32(described)) + data[end:]
    with pytest.raises(struct.error):
        ImageOps.exif_transpose(Image.open(io.BytesIO(odd)))
    assert decode(odd).size == (20, 40)


def photo(width: int, height: int, file_format: str = "JPEG", **options: Any) -> bytes:
    """Smooth shapes with some noise, as a camera would see."""
    image = Image.radial_gradient("L").resize((width, height), Image.Resampling.BICUBIC).convert("RGB")
    noise = Image.effect_noise((width // 4 + 1, height // 4 + 1), 40).resize((width, height)).convert("RGB")
    return encode(Image.blend(image, noise, 0.3), file_format, **options)


def test_a_phones_multi_picture_jpeg_is_its_first_picture() -> None:
    first, second = Image.new("RGB", (40, 20), "red"), Image.new("RGB", (10, 10), "blue")
    image = decode(encode(first, "MPO", save_all=True, append_images=[second]))
    assert image.size == (40, 20)
    assert image.getpixel((5, 5))[0] > 200  # type: ignore[index]


@given(st.integers(1, 511), st.integers(1, 511))
def test_a_jpeg_under_four_times_the_side_keeps_every_bit(width: int, height: int) -> None:
    if max(width, height) > 100 * min(width, height):
        return
    data = photo(width, height, quality=80)
    assert decode(data, side=128).tobytes() == decode(data).tobytes()
    assert decode(data, side=128).size == (width, height)


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_other_formats_keep_every_bit_at_any_size(file_format: str) -> None:
    data = photo(1100, 300, file_format)
    assert decode(data, side=128).tobytes() == decode(data).tobytes()


@pytest.mark.parametrize(
    ("size", "decoded"),
    [
        ((512, 384), (256, 192)),
        ((384, 512), (192, 256)),
        ((1023, 700), (512, 350)),
        ((1024, 11), (256, 3)),
        ((2047, 30), (512, 8)),
        ((2048, 1536), (256, 192)),
        ((4000, 3000), (500, 375)),
    ],
)
def test_a_large_jpeg_is_decoded_small_yet_twice_the_side_at_least(
    size: tuple[int, int], decoded: tuple[int, int]
) -> None:
    image = decode(photo(*size, quality=80), side=128)
    assert image.size == decoded
    assert max(image.size) >= 256


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 2}, {"quality": 95}])
@pytest.mark.parametrize("size", [(512, 512), (1500, 1000), (3000, 2000)])
def test_a_scaled_decode_looks_like_the_full_one(size: tuple[int, int], options: dict[str, Any]) -> None:
    import numpy as np

    data = photo(*size, **options)
    full, scaled = (PREPARATION.apply(image) for image in (decode(data), decode(data, side=128)))
    difference = np.abs(np.asarray(full, int) - np.asarray(scaled, int))
    assert difference.mean() < 1.0
    assert np.percentile(difference, 99.9) <= 8


def test_a_scaled_decode_knows_rotation_grey_truncation_and_phones() -> None:
    large = Image.new("RGB", (1024, 768), "red")
    assert decode(encode(large, "MPO", save_all=True, append_images=[large]), side=128).size == (256, 192)
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(photo(1024, 768, exif=exif), side=128).size == (192, 256)
    assert decode(encode(Image.new("L", (1024, 768), 9), "JPEG"), side=128).getpixel((5, 5)) == (9, 9, 9)
    assert decode(encode(Image.new("CMYK", (1024, 768)), "JPEG"), side=128).mode == "RGB"
    data = photo(1024, 768)
    with pytest.raises(ImageBroken):
        decode(data[: len(data) // 2], side=128)


BEGINNINGS = [
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"RIFF\x40\0\0\0WEBP",
    b"GIF89a",
    b"BM" + bytes(12) + b"\x28\0\0\0",
]
BEGINNINGS += [b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0" + brand + b"mif1" for brand in (b"avif", b"avis", b"heic")]


@given(st.binary(max_size=300), st.sampled_from([b"", *BEGINNINGS]))
def test_any_bytes_decode_or_end_in_a_typed_error(data: bytes, magic: bytes) -> None:
    assert outcome(magic + data) in ("RGB", 400, 413, 415, 422)


@given(st.data())
def test_a_damaged_file_decodes_or_ends_in_a_typed_error(data: st.DataObject) -> None:
    file = bytearray(png(file_format=data.draw(st.sampled_from(FORMATS))))
    for _ in range(data.draw(st.integers(1, 8))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    assert outcome(bytes(file)) in ("RGB", 400, 413, 415, 422)


def test_a_square_of_the_right_side_is_left_alone() -> None:
    image = Image.effect_noise((128, 128), 60).convert("RGB")
    assert PREPARATION.apply(image).tobytes() == image.tobytes()


@given(st.integers(64, 300), st.integers(64, 300))
def test_every_image_becomes_a_centred_square(width: int, height: int) -> None:
    square = PREPARATION.apply(Image.new("RGB", (width, height), "red"))
    assert square.size == (128, 128)
    assert square.getpixel((63, 63)) == (255, 0, 0)
    if width > 1.1 * height:
        assert square.getpixel((64, 0)) == PREPARATION.colour
    if height > 1.1 * width:
        assert square.getpixel((0, 64)) == PREPARATION.colour


def test_a_digest_knows_shape_and_palette_beside_bytes() -> None:
    raw = bytes(range(256)) * 3
    images = [Image.frombytes("RGB", size, raw) for size in ((16, 16), (8, 32), (32, 8))]
    digests = {picture(encode(image), PREPARATION).digest for image in images}
    assert len(digests) == 3
    palettes = [Image.frombytes("P", (16, 16), bytes(range(256))) for _ in range(2)]
    for colours, image in zip((bytes(range(256)) * 3, bytes(range(255, -1, -1)) * 3), palettes, strict=True):
        image.putpalette(colours)
    assert palettes[0].tobytes() == palettes[1].tobytes()
    assert len({picture(encode(image), PREPARATION).digest for image in palettes}) == 2
    again = picture(encode(images[0]), PREPARATION)
    assert again.digest in digests
    assert picture(encode(images[0]), Preparation(64, PREPARATION.colour)).digest not in digests


def test_the_preparation_of_the_embedded_checkpoint() -> None:
    assert Preparation.of_checkpoint(CHECKPOINT) == PREPARATION


def test_the_models_own_processor_changes_no_prepared_pixel() -> None:
    """What the trainer and the engine see is what we prepared: resize and crop find nothing to do."""
    import numpy as np
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(CHECKPOINT, local_files_only=True)
    prepared = picture(encode(Image.effect_noise((90, 50), 90).convert("RGB")), PREPARATION).image
    pixels = processor(images=[prepared], return_tensors="np").pixel_values[0].transpose(1, 2, 0)
    back = pixels * np.array(processor.image_std) + np.array(processor.image_mean)
    assert np.abs(back * 255 - np.asarray(prepared)).max() < 0.01
