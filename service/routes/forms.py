"""A multipart/form-data body (RFC 7578), parsed while it comes -> its text fields and its images, one copy of each.

A part named `image` or `images` is an image file where it has a filename or its bytes begin as one, since not every
client names the file; else it is text, as in JSON. A field that is empty counts as not given: browsers send those.
"""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import InvalidRequest, MalformedRequest
from service.images.kinds import kind_of
from service.types import Upload

# Parts of one form, and characters of a part's headers.
_PARTS, _HEAD = 100, 8192
_IMAGES = ("image", "images")
# A form repeats a field to make a list, or gives the list as JSON.
_LISTS = (*_IMAGES, "choices")


def is_form(content_type: str) -> bool:
    """Whether a body of that type is a form with parts."""
    return content_type.partition(";")[0].strip().lower() == "multipart/form-data"


@dataclass
class _Part:
    """One part as far as it came."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    content: bytearray = field(default_factory=bytearray)
    name: str = ""
    is_file: bool = False


@dataclass
class Form:
    """A form: its fields as JSON would have them, its image files in order, and the characters of its texts."""

    fields: dict[str, Any]
    files: tuple[Upload, ...]
    size: int


async def read_form(content_type: str, chunks: AsyncIterator[bytes]) -> Form:
    """Read the form of a body that comes in `chunks`.

    Raises:
        MalformedRequest: no such form, over 100 parts, text that is not UTF-8, or a field twice that may come once.
        And what `chunks` raises while it is read.
        InvalidRequest: a file in another field than image and images.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise MalformedRequest("the form's content-type names no boundary: let your HTTP client set the header")
    parts = _Parts()
    try:
        parser = MultipartParser(boundary, parts.callbacks())
        async for chunk in chunks:
            parser.write(chunk)
        parser.finalize()
        if not parts.ended:
            raise MalformedRequest("the form ends before its last boundary: send all of it")
    except (FormParserError, ValueError) as error:
        raise MalformedRequest(f"the form cannot be read: {error}") from error
    return _form([part for part in parts.read if part.content])


class _Parts:
    """Collects parts while they are parsed."""

    def __init__(self) -> None:
        self.read: list[_Part] = []
        self.ended = False
        self._header, self._value = bytearray(), bytearray()

    def callbacks(self) -> Any:
        """The functions that the parser calls, by python_multipart's names for them."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._add(self._header, data[start:end]),
            "on_header_value": lambda data, start, end: self._add(self._value, data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_end": self._end,
            "on_part_data": lambda data, start, end: self._part.content.extend(memoryview(data)[start:end]),
        }

    @property
    def _part(self) -> _Part:
        return self.read[-1]

    def _end(self) -> None:
        self.ended = True

    def _begin(self) -> None:
        if len(self.read) == _PARTS:
            raise MalformedRequest(f"the form has over {_PARTS} parts: send fewer")
        self.read.append(_Part())

    def _add(self, text: bytearray, more: bytes) -> None:
        text.extend(more)
        if len(text) > _HEAD:
            raise MalformedRequest("a part of the form has too long a header")

    def _end_header(self) -> None:
        self._part.headers[bytes(self._header).lower()] = bytes(self._value)
        self._header, self._value = bytearray(), bytearray()

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._part.headers.get(b"content-disposition", b""))
        if b"name" not in options:
            raise MalformedRequest("a part of the form has no name: write content-disposition: form-data; name=…")
        self._part.name = _unicode(options[b"name"], "the name of a field")
        self._part.is_file = b"filename" in options


def _form(parts: list[_Part]) -> Form:
    texts: dict[str, list[str]] = {}
    files = []
    for part in parts:
        if part.name in _IMAGES and (part.is_file or kind_of(bytes(part.content[:256]))):
            files.append(Upload(bytes(part.content)))
        elif part.is_file:
            raise InvalidRequest(f"field {part.name[:100]} is a file: only image and images may be")
        elif (text := _unicode(part.content, f"field {part.name[:100]}")).strip():
            texts.setdefault(part.name, []).append(text)
        part.content = bytearray()  # one copy is enough
    if twice := next((name for name, values in texts.items() if len(values) > 1 and name not in _LISTS), None):
        raise MalformedRequest(f"field {twice[:100]} came {len(texts[twice])} times: send it once")
    fields = {name: _list(name, values) if name in _LISTS else values[0] for name, values in texts.items()}
    return Form(_one_image(fields), tuple(files), sum(len(value) for values in texts.values() for value in values))


def _list(name: str, values: list[str]) -> Any:
    if len(values) > 1 or not values[0].lstrip().startswith("["):
        return values
    try:
        return json.loads(values[0])
    except ValueError as error:
        raise MalformedRequest(f"field {name} begins as a JSON list and is none: {error}") from error


def _one_image(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with images as JSON has them: one as text in `image`, several in `images`."""
    image = fields.pop("image", None)
    if image is None:
        return fields
    return fields | ({"image": image[0]} if len(image) == 1 else {"images": [*image, *fields.get("images", [])]})


def _unicode(text: bytes | bytearray, what: str) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise MalformedRequest(f"{what} is not text in UTF-8") from error
