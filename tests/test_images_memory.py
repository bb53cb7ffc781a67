"""Decoding takes no more memory than is told from the header, and what would take too much is refused before."""

import io

import pytest
from PIL import Image

from loadtest.images import image_memory
from service.errors import ImageTooLarge
from service.images import ImageLimits, Preparation, decode, gif, jpeg, picture, png
from service.images.decode import know_heif
from service.images.kinds import kind_of
from service.images.memory import needed
from tests.test_images import encode, png_header

SIDE = 1500
# What Python and the allocator keep beside.
SLACK = 6_000_000


@pytest.fixture(autouse=True, scope="module")
def heic() -> None:
    """Pillow writes HEIC too."""
    know_heif()


def told(data: bytes) -> int:
    """What `decode` says it may take."""
    kind = kind_of(data)
    assert kind is not None
    with Image.open(io.BytesIO(data)) as image:
        if kind != "JPEG":
            return needed(kind, image)
        image.draft(None, (image.width // 2, image.height // 2))
        return needed(kind, image) + jpeg.judge(data).coefficients


@pytest.mark.parametrize("name", image_memory.FILES)
def test_decoding_takes_no_more_than_the_header_told(name: str) -> None:
    memory, _ = image_memory.measure(name, SIDE)
    assert memory <= told(image_memory.FILES[name](SIDE)) + SLACK


@pytest.mark.parametrize("name", image_memory.FILES)
def test_what_would_take_more_than_the_limit_is_refused(name: str) -> None:
    data = image_memory.FILES[name](600)
    if name != "JPEG":  # which is decoded at a part of its size
        with pytest.raises(ImageTooLarge, match="bytes to decode"):
            picture(data, Preparation(336, (0, 0, 0)), ImageLimits(memory=17_000_000))
    assert picture(data, Preparation(336, (0, 0, 0)), ImageLimits(memory=40_000_000)).image.size == (336, 336)


def test_by_default_fifty_megapixels_of_a_png_may_be_decoded_and_of_a_webp_half() -> None:
    memory = ImageLimits().memory
    assert needed("PNG", sized("RGBA", 7071, 7071)) <= memory
    assert needed("WEBP", sized("RGBA", 6000, 4000)) <= memory < needed("WEBP", sized("RGBA", 7000, 5000))
    assert needed("HEIF", sized("RGB", 8064, 6048)) <= memory  # a phone's 48 megapixels


def sized(mode: str, width: int, height: int) -> Image.Image:
    """An image that says it is of that size and has no pixels of it."""
    image = Image.new(mode, (1, 1))
    image._size = (width, height)
    return image


def test_a_png_keeps_its_pixels_rotation_and_colours_when_notes_and_frames_are_dropped() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = encode(Image.effect_noise((40, 20), 90), exif=exif)
    assert png.still(plain) is plain
    profiled = encode(Image.open(io.BytesIO(plain)), exif=exif, icc_profile=bytes(3000))
    assert b"iCCP" in profiled
    assert len(png.still(profiled)) == len(profiled) - 12 - int.from_bytes(profiled[33:37], "big")
    assert decode(profiled).tobytes() == decode(plain).tobytes()
    assert decode(plain).size == (20, 40)


@pytest.mark.parametrize("packed", [False, True])
def test_a_rotation_that_only_a_pngs_notes_tell_is_known(packed: bool) -> None:
    from PIL import PngImagePlugin

    notes = PngImagePlugin.PngInfo()
    notes.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>', zip=packed)
    assert decode(encode(Image.new("L", (40, 20)), pnginfo=notes)).size == (20, 40)


def test_a_png_of_many_parts_is_refused() -> None:
    data = png_header(8, 8)
    with pytest.raises(ImageTooLarge, match="65,536 parts"):
        decode(data[:33] + (b"\0\0\0\0teSt" + bytes(4)) * 70_000 + data[33:])


def test_a_gif_is_read_to_its_first_frame_only() -> None:
    colours = Image.effect_noise((40, 30), 90).convert("RGB").quantize(7)
    plain, clear = encode(colours, "GIF"), encode(colours, "GIF", transparency=3, disposal=2, comment=b"x" * 3000)
    assert decode(plain).size == (40, 30)
    trimmed = gif.first_frame(clear)
    assert len(trimmed) < len(clear) - 3000
    assert decode(clear).getcolors() != decode(plain).getcolors()
    assert gif.first_frame(trimmed) is trimmed
    screen = 13 + (3 << (plain[10] & 7) + 1)
    notes = b"!\xfe" + b"\1x" * 70_000 + b"\0"
    with pytest.raises(ImageTooLarge, match="65,536 parts"):
        decode(plain[:screen] + notes + plain[screen:])


def test_a_bmp_in_run_lengths_is_decoded_where_it_is_small() -> None:
    from tests.test_images_fuzz import run_lengths

    data = run_lengths()
    assert decode(data).size == (16, 16)
    with pytest.raises(ImageTooLarge, match="run lengths"):
        decode(data + bytes(1_000_000))
