"""What a JPEG's markers tell before it is decoded: scans, coefficients, an end that is missing."""

import time
from typing import Any

import pytest
from PIL import Image

from service.errors import ImageBroken, ImageTooLarge
from service.images import ImageLimits, decode, jpeg
from tests.test_images import encode, photo

WHOLE: dict[str, dict[str, Any]] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "4:4:4": {"subsampling": 0},
    "phones": {"optimize": True},
}


def many_scans(side: int, scans: int) -> bytes:
    """A grey progressive JPEG whose last scan, which changes nothing, comes `scans` times more."""
    data = encode(Image.new("L", (side, side), 128), "JPEG", progressive=True, quality=50)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scans * last + jpeg.END


@pytest.mark.parametrize("options", WHOLE.values(), ids=WHOLE)
@pytest.mark.parametrize("size", [(200, 160), (199, 161), (1400, 900)])
@pytest.mark.parametrize("side", [None, 128])
def test_a_jpeg_that_lacks_only_its_end_marker_is_whole(
    options: dict[str, Any], size: tuple[int, int], side: int | None
) -> None:
    data = photo(*size, **options)
    assert data.endswith(jpeg.END)
    assert decode(data[:-2], side=side).tobytes() == decode(data, side=side).tobytes()
    assert decode(data[:-1], side=side).tobytes() == decode(data, side=side).tobytes()


@pytest.mark.parametrize("options", WHOLE.values(), ids=WHOLE)
@pytest.mark.parametrize("missing", [30, 100, 1000, 5000])
def test_a_jpeg_that_lacks_pixels_is_broken(options: dict[str, Any], missing: int) -> None:
    data = photo(800, 600, **options)
    with pytest.raises(ImageBroken, match="truncated"):
        decode(data[:-missing])


def test_what_follows_the_end_does_not_matter() -> None:
    data = photo(200, 160)
    assert decode(data + bytes(1000)).tobytes() == decode(data).tobytes()
    assert decode(data + b"\xff\xda" * 5000).tobytes() == decode(data).tobytes()


def test_an_encoders_scans_pass_and_more_are_refused_before_any_is_decoded() -> None:
    usual = photo(400, 300, progressive=True)
    assert 5 < usual.count(b"\xff\xda") < 12
    assert decode(usual).size == (400, 300)
    assert decode(many_scans(400, 40)).size == (400, 400)
    began = time.process_time()
    with pytest.raises(ImageTooLarge, match="64 scans"):
        decode(many_scans(1000, 20_000))
    with pytest.raises(ImageTooLarge, match=r"49,000,000 pixels in 21 scans"):
        decode(many_scans(7000, 30))
    assert time.process_time() - began < 1


def test_coefficients_are_counted_where_a_decoder_keeps_them() -> None:
    assert jpeg.judge(photo(400, 300)).coefficients == 0
    assert jpeg.judge(photo(400, 300, progressive=True, subsampling=0)).coefficients == 2 * 3 * 400 * 300
    assert jpeg.judge(photo(400, 300, progressive=True, subsampling=2)).coefficients == 2 * 1.5 * 400 * 300
    with pytest.raises(ImageTooLarge, match="baseline"):
        decode(photo(2000, 2000, progressive=True, subsampling=0), ImageLimits(memory=40_000_000), side=128)
    assert decode(photo(2000, 2000), ImageLimits(memory=40_000_000), side=128).size == (500, 500)


@pytest.mark.parametrize(
    "filling",
    [b"\xff\xfe\0\2" * 100_000, b"\xff" * 1_000_000, b"junk" * 250_000, b"\xff\x01" * 100_000],
    ids=["comments", "fill bytes", "junk", "markers"],
)
def test_a_jpeg_of_filling_costs_nothing(filling: bytes) -> None:
    """Pillow reads what stands before the picture a byte or a marker at a time."""
    data = photo(64, 64)
    began = time.process_time()
    with pytest.raises((ImageTooLarge, ImageBroken)):
        decode(data[:20] + filling + data[20:])
    assert time.process_time() - began < 0.2


def test_a_phones_second_picture_is_not_read() -> None:
    first, second = Image.new("RGB", (40, 20), "red"), Image.new("RGB", (10, 10), "blue")
    assert jpeg.judge(encode(first, "MPO", save_all=True, append_images=[second]) + bytes(100)).ended
