"""An image as text: a data URL or plain base64 -> its bytes; another URL -> a Link to be fetched."""

import binascii
import re
from typing import Annotated, Any
from urllib.parse import unquote

import pybase64
from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from service.errors import ImageBroken
from service.images.kinds import known_kind
from service.types import Link, Upload

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)  # a colon is no base64
# A data URL up to its comma: a type and parameters, which are ignored, and ";base64"; and the most characters of that.
_HEAD, _LONGEST_HEAD = re.compile(r"data:.*; *base64 *", re.IGNORECASE | re.DOTALL), 1000
_SPACE = " \t\n\f\r"
# Characters at a long text's beginning that its kind is told by; and of the pieces that are tidied one by one, since
# each call holds the interpreter lock. To decode 20 million takes a millisecond or two.
_PIECE = 1 << 19  # a multiple of four


def _text(value: Any) -> Any:
    if isinstance(value, str):
        return value
    raise PydanticCustomError("image", "an image is text: a data URL, an https URL or base64")


ImageText = Annotated[str, BeforeValidator(_text, json_schema_input_type=str)]


def read_image(text: str) -> Upload | Link:
    """The image that a data URL or plain base64 holds, or that another URL leads to.

    The type in a data URL is ignored. Base64 is read by WHATWG's forgiving-base64 decode, where white space and missing
    padding are allowed; one or two needless `=` at the end are too. Of a long text the first bytes are checked to be an
    image's before the rest is decoded.

    Raises:
        ImageBroken: it is not base64, or a data URL without base64.
        ImageTypeRefused: it is long, and no image file.
    """
    begin = text[:_LONGEST_HEAD].lstrip(_SPACE)
    scheme = _SCHEME.match(begin)
    if scheme is None:
        return Upload(_base64(text))
    if scheme[0].lower() != "data:":
        return Link(text.strip(_SPACE))
    head, comma, _ = begin.partition(",")
    if not comma or not _HEAD.fullmatch(head):
        raise ImageBroken("the image is a data URL without base64: write data:image/png;base64, and then its base64")
    encoded = text[text.index(",") + 1 :]
    return Upload(_base64(unquote(encoded) if "%" in encoded else encoded))


def _base64(text: str) -> bytes:
    try:
        return _strictly(text)
    except ValueError:  # most are right at once, and are not copied
        pass
    try:
        return _strictly(_tidied(text))
    except ValueError as error:
        raise ImageBroken(
            f"the image is not base64 ({_reason(error)}): send a data URL, an https URL, or base64 of an image file"
        ) from error


def _strictly(text: str | bytes) -> bytes:
    if len(text) > _PIECE:
        known_kind(pybase64.b64decode(text[:_PIECE], validate=True))
    return pybase64.b64decode(text, validate=True)


def _tidied(text: str) -> bytes:
    """`text` without white space, and with all of its padding."""
    pieces = (text[start : start + _PIECE] for start in range(0, len(text), _PIECE))
    spaceless = b"".join(piece.encode("ascii").translate(None, _SPACE.encode()) for piece in pieces)
    digits = spaceless.rstrip(b"=")
    if len(spaceless) - len(digits) > 2 or len(digits) % 4 == 1:
        raise binascii.Error("its length is none that base64 has")
    return digits + b"=" * (-len(digits) % 4)


def _reason(error: ValueError) -> str:
    if isinstance(error, UnicodeEncodeError):
        return "it has characters that are not ASCII"
    words = str(error)
    return "it has characters that base64 has none of" if words.startswith("Non-base64") else words.lower()
