"""What wraps every request, in plain ASGI: request ids, spans, HEAD, and limits of a body while it is read."""

import asyncio
import os
import re
from collections.abc import Iterator

from opentelemetry import propagate
from opentelemetry.trace import Span, SpanKind, StatusCode
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import logs
from service.errors import BodyTooLarge, BodyTypeRefused
from service.in_hand import InHand
from service.tracing import recording, tracer

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
# Bytes by which a body's share of `InHand` is raised before they are read: more than a connection reads at once.
_STEP = 512 << 10
# Slept after each step, so that other requests are read between those of a large body: 20 MB, 38 steps, take 80 ms
# more.
_PAUSE_S = 0.002
# A compressed body is refused: a few bytes could become many.
_ENCODINGS = ("", "identity")
_PARENT = "traceparent"
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def _ids() -> Iterator[str]:
    """Random ids of 32 hex digits, 128 drawn from the system at once: each call to it releases the interpreter lock."""
    while True:
        drawn = os.urandom(4096).hex()
        yield from (drawn[at : at + 32] for at in range(0, len(drawn), 32))


_IDS = _ids()


def route_path(scope: Scope) -> str:
    """The request's path without the prefix (--root-path), which a proxy may or may not have stripped."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path


class RequestId:
    """Gives each request an id: its X-Request-ID where that is 1 to 64 of A-Z a-z 0-9 . _ -, else a random one.

    It is on every response, in `request.state.request_id`, and in log lines.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else next(_IDS)
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        token = logs.request_id.set(request_id)
        try:
            await self.app(scope, receive, send_with_id)
        finally:
            logs.request_id.reset(token)


class Trace:
    """A span for each request under /v1/, in the trace that its `traceparent` header names (W3C Trace Context), if any.

    Log lines name that trace, whether or not spans are recorded.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or not route_path(scope).startswith("/v1/"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if not recording() and _PARENT not in headers:
            await self.app(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        parent = propagate.extract(headers)
        with tracer.start_as_current_span(method, parent, SpanKind.SERVER) as span:
            span.set_attributes({"http.request.method": method, "vqa.request_id": scope["state"]["request_id"]})

            async def send_noted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    _note_response(span, method, scope, message["status"])
                await send(message)

            await self.app(scope, receive, send_noted)


class Head:
    """Answers HEAD as GET, without the body."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self.app({**scope, "method": "GET"}, receive, send_head)


class BodyLimit:
    """Limits of a body: at most `limit` bytes, not compressed, and counted in `in_hand` until the request ends.

    The app's `receive` raises BodyTooLarge where it has more bytes, BodyTypeRefused where it is compressed, and
    Overloaded where `in_hand` has no room for it in time. Bytes are counted step by step before they are read, so that
    a client that sends slowly holds few of them.
    """

    def __init__(self, app: ASGIApp, limit: int, in_hand: InHand) -> None:
        self.app, self.limit, self.in_hand = app, limit, in_hand

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        encoding, length = headers.get("content-encoding", "").strip().lower(), headers.get("content-length", "")
        declared, seen, held = int(length) if length.isdecimal() else 0, 0, 0
        comes = declared > 0 or "transfer-encoding" in headers

        async def hold(count: int) -> None:
            nonlocal held
            if count > held:
                await self.in_hand.take(count - held)
                held = count

        async def receive_capped() -> Message:
            nonlocal seen, comes
            if encoding not in _ENCODINGS:
                raise BodyTypeRefused(f"the body's content-encoding is {encoding[:40]!r}: send it as it is")
            # Before it is waited for: a client that expects 100-continue then sends none of it.
            if declared <= self.limit and comes:
                await hold(min(seen + _STEP, declared or self.limit))
            message: Message = await receive() if declared <= self.limit else {}
            before, seen = seen, seen + len(message.get("body", b""))
            if before // _STEP < seen // _STEP:
                await asyncio.sleep(_PAUSE_S)
            comes = comes and bool(message.get("more_body"))
            if max(seen, declared) > self.limit:
                raise BodyTooLarge(f"the body is over {self.limit:,} bytes: send a smaller image")
            await hold(seen)
            return message

        try:
            await self.app(scope, receive_capped, send)
        finally:
            self.in_hand.give(held)


def _note_response(span: Span, method: str, scope: Scope, status: int) -> None:
    span.set_attribute("http.response.status_code", status)
    if route := getattr(scope.get("route"), "path", None):
        span.update_name(f"{method} {route}")
        span.set_attribute("http.route", route)
    if status >= 500:
        span.set_status(StatusCode.ERROR)
