"""Images as text: base64 is read as WHATWG's forgiving-base64 does, however long it is."""

import base64
import binascii
import re

import pybase64
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.errors import ImageBroken, ImageTypeRefused
from service.schemas import images
from service.schemas.images import read_image
from service.types import Upload

_PNG = b"\x89PNG\r\n\x1a\n"
TEXTS = st.text("AB+/= \n\t", max_size=40) | st.binary(max_size=40).map(lambda data: base64.b64encode(data).decode())


def forgiving(text: str) -> bytes | None:
    """https://infra.spec.whatwg.org/#forgiving-base64-decode, word by word; None is failure."""
    text = re.sub(r"[ \t\n\f\r]", "", text)
    if len(text) % 4 == 0:
        text = re.sub("={1,2}$", "", text)
    if len(text) % 4 == 1 or re.search("[^A-Za-z0-9+/]", text):
        return None
    return binascii.a2b_base64(text + "=" * (-len(text) % 4))


@given(TEXTS, st.sampled_from((4, 8, 12, 1 << 19)))
@example("AAAA==", 4)
@example("AAA= =", 4)
def test_every_text_is_what_the_standard_makes_of_it_in_pieces_of_any_length(text: str, piece: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "_PIECE", piece)
        patch.setattr(images, "known_kind", lambda _: None)
        try:
            told: bytes | None = images._base64(text)
        except ImageBroken:
            told = None
    wanted = forgiving(text)
    # One or two `=` at the end are taken here whether or not they are needed: the standard takes the needed ones or
    # none.
    assert told == wanted or (wanted is None and told == forgiving(re.sub(r"=\s*(=\s*)?$", "", text)))


def test_long_text_that_is_no_image_is_refused_by_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    decode = pybase64.b64decode

    def counted(piece: str, validate: bool) -> bytes:
        decoded.append(len(piece))
        return decode(piece, validate=validate)

    monkeypatch.setattr(pybase64, "b64decode", counted)
    with pytest.raises(ImageTypeRefused):
        read_image("A" * 20_000_000)
    assert sum(decoded) <= 1 << 19
    data = _PNG + bytes(15_000_000)
    assert read_image(base64.b64encode(data).decode()) == Upload(data)
