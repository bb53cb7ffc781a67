"""A request's body -> one of our shapes; what does not fit is named field by field.

The memory that JSON takes once it is read grows with the number of its values, not with its bytes: 20 MB of `[[],[],…]`
become 500 MB of Python lists. So the values are counted in the bytes, before any of them is made.
"""

import io
import itertools
import re
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jiter
from fastapi import Request
from pydantic import BaseModel, ValidationError

from service.errors import BodyTypeRefused, InvalidRequest, MalformedRequest, ServiceError, TextTooLong
from service.routes.failure import worded
from service.workers import Workers

M = TypeVar("M", bound=BaseModel)
R = TypeVar("R")
# Bytes of a body up to which it is parsed on the event loop, which is sooner done than a thread is woken.
_SMALL = 32_768
# Values in one body, keys among them. A batch of 64 questions (--batch-questions) with all fields and 32 choices each
# has some 3,000, a JSON schema some hundreds.
MOST_VALUES = 20_000
# Content types that are read as JSON, beside all that end in +json; a page's fetch() and many scripts send text/plain.
_TYPES = ("", "application/json", "text/json", "text/plain")
_BOM = b"\xef\xbb\xbf"
# Bytes that are counted in one call, which holds the interpreter lock.
_SLICE = 1 << 20
# A string, or a mark ([ { , :) after which a value of a list or an object comes.
_PARTS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[,\[{:]', re.DOTALL)
# The first so many strings are skipped by searching for their closing quote, which is fast through megabytes of base64.
_STRINGS = 100


async def read_json(request: Request, shape: type[M], workers: Workers, convert: Callable[[M], R]) -> tuple[M, R]:
    """Read a JSON body as `shape`, and convert it; no body at all is read as `{}`. Returns both.

    A large body is parsed and converted on a thread of `workers`.

    Raises:
        BodyTypeRefused: its content-type is not JSON.
        MalformedRequest: no JSON, nested too deep for the parser, or a key that comes twice in an object.
        TextTooLong, InvalidRequest: fields are missing, unknown or out of bounds, or the body has over
            MOST_VALUES values; and what `convert` raises.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in _TYPES and not kind.endswith("+json"):
        raise BodyTypeRefused(f"the body's content-type is {kind[:100]!r}: send JSON, and say application/json")
    # Not `request.body()`, which would keep it until the answer is given, and join 20 MB in 9 ms of the event loop.
    gathered = io.BytesIO()
    async for chunk in request.stream():
        gathered.write(chunk)
    body = gathered.getvalue().removeprefix(_BOM) or b"{}"  # getvalue copies nothing
    del gathered
    return await parse_and_convert(partial(_parse, shape, body), convert, len(body), workers)


def unchanged(body: M) -> M:
    """Return a body as it was parsed: the `convert` of routes that need no other type."""
    return body


async def parse_and_convert(
    parse: Callable[[], M], convert: Callable[[M], R], size: int, workers: Workers
) -> tuple[M, R]:
    """Call `parse`, then `convert` with what it returned; returns both results.

    `size` is the body's in bytes: over _SMALL both run on a thread, so as not to hold the event loop.

    Raises:
        TextTooLong, InvalidRequest: `parse` raised a ValidationError, which this puts in one sentence; and what
            `parse` and `convert` raise beside that.
    """

    def read() -> tuple[M, R]:
        parsed = parse()
        return parsed, convert(parsed)

    try:
        return await workers.run(read) if size > _SMALL else read()
    except ValidationError as error:
        raise await workers.run(invalid, error) from error  # thousands of faults are long to word


def documented(path: str, shape: type[BaseModel], method: str = "post", required: bool = True) -> dict[str, Any]:
    """The OpenAPI entry for the JSON body that `read_json` reads as `shape` at `path`."""
    # Where the shapes within it will stand in the document.
    pointer = path.replace("/", "~1").replace("{", "{{").replace("}", "}}")
    place = f"#/paths/{pointer}/{method}/requestBody/content/application~1json/schema/$defs/{{model}}"
    content = {"application/json": {"schema": shape.model_json_schema(ref_template=place)}}
    return {"requestBody": {"required": required, "content": content}}


def _parse(shape: type[M], body: bytes) -> M:
    if not _few_values(body):
        raise InvalidRequest(f"the body has over {MOST_VALUES:,} values: send fewer")
    try:
        # pydantic's own parser, which by itself would let the last of two like keys win.
        found = jiter.from_json(body, catch_duplicate_keys=True)
    except ValueError as error:
        raise MalformedRequest(f"the body is no JSON that could be read: {error}") from error
    return shape.model_validate(found)


def _few_values(body: bytes) -> bool:
    """Whether a body has at most MOST_VALUES values; each but the first comes after a mark outside of strings."""
    if len(body) <= MOST_VALUES:
        return True
    at = marks = parts = 0
    for _ in range(_STRINGS):
        begin = body.find(b'"', at)
        end = body.find(b'"', begin + 1)
        if begin < 0 or end < 0 or body[end - 1] == 0x5C:  # no string more, or one that may go on behind this quote
            break
        marks += _marks(body, at, begin)
        at = end + 1
    if marks + _marks(body, at, len(body)) <= MOST_VALUES:
        return True
    for part in itertools.islice(_PARTS.finditer(body, at), 2 * MOST_VALUES):
        parts += 1
        marks += body[part.start()] != 0x22  # texts may have more marks than that
    return parts < 2 * MOST_VALUES and marks <= MOST_VALUES


def _marks(body: bytes, begin: int, end: int) -> int:
    """How many marks are between two offsets, within strings too; counting stops once there are over MOST_VALUES."""
    found = 0
    for start in range(begin, end, _SLICE):
        stop = min(start + _SLICE, end)
        found += sum(body.count(mark, start, stop) for mark in (b",", b"[", b"{", b":"))
        if found > MOST_VALUES:
            break
    return found


def invalid(error: ValidationError) -> ServiceError:
    """The error to raise for pydantic's: the first faults in one sentence; TextTooLong where a text is too long."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    sentence = worded(faults, "body")
    too_long = any(fault["type"] == "string_too_long" for fault in faults)
    return TextTooLong(sentence) if too_long else InvalidRequest(sentence)
