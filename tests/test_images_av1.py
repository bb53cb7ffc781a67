"""How large an AVIF's pixels are by its AV1 stream, whatever its container claims."""

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.errors import ImageBroken, ImageTooLarge
from service.images import ImageLimits, av1, decode
from tests.test_images import animated, encode


@pytest.mark.parametrize("size", [(64, 64), (300, 200), (1, 1), (1001, 333)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_the_stream_tells_the_size(size: tuple[int, int], mode: str) -> None:
    assert av1.pixels(encode(Image.new(mode, size), "AVIF", speed=10)) == size[0] * size[1]


def test_a_container_that_claims_less_than_its_stream_holds_is_refused_undecoded() -> None:
    data = encode(Image.new("RGB", (1024, 1024)), "AVIF", speed=10)
    at = data.index(b"ispe") + 8
    lie = data[:at] + struct.pack(">II", 64, 64) + data[at + 8 :]
    with pytest.raises(ImageTooLarge, match="1,048,576 pixels"):
        decode(lie, ImageLimits(pixels=500_000))
    assert decode(data, ImageLimits(pixels=1_048_576)).size == (1024, 1024)


def test_an_animations_poster_is_its_picture() -> None:
    data = animated("AVIF")
    assert data[8:12] == b"avis"
    assert av1.pixels(av1.still(data)) == 64
    assert decode(data).size == (8, 8)


@given(st.data())
def test_damage_is_broken_or_a_size(data: st.DataObject) -> None:
    file = bytearray(encode(Image.new("RGB", (16, 16)), "AVIF", speed=10))
    for _ in range(data.draw(st.integers(1, 6))):
        file[data.draw(st.integers(8, len(file) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ImageBroken):
        assert av1.pixels(bytes(file[: data.draw(st.integers(12, len(file)))])) >= 0
