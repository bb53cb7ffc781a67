"""What HTTP connections may cost: how long a request may take to come, how large its head is, how many are open.

And how they end: so that the last answer reaches its client. uvicorn has no such limits, and closes at once. This file
knows bytes and time, nothing of questions; it closes a connection or lets it be.
"""

import asyncio
import uuid
from functools import partial
from typing import Any, cast

import uvicorn
from fastapi import FastAPI
from prometheus_client import Counter, Gauge
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.errors import HeadTooLarge, MalformedRequest, RequestTooSlow, ServiceError
from service.lifetime import Life
from service.routes import failure
from service.routes.state import Service
from service.schemas.errors import ErrorResponse
from service.settings import Settings

_HEAD_BYTES = 65_536
# An answer that goes before its request came whole, on a connection that is to be closed: closed at once, the system
# resets it, and most clients lose the answer. So what they still send is read and dropped, up to as much as this.
_LINGER_BYTES, _LINGER_S = 64 << 20, 20.0
# What is dropped beyond what sockets hold anyway is read so much at a time, with a pause after it: others come first.
_BUFFERED, _DROPPED_AT_ONCE, _PAUSE_S = 4 << 20, 1 << 18, 0.002
# Who was too slow, or speaks no HTTP, is not waited for so long.
_REFUSED_LINGER_S = 2.0
# A body of this many bytes more may take a second more: a slow line is served, a drip is not.
_BYTES_PER_S = 65_536


def configure(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """How uvicorn serves `app`."""
    service: Service = app.state.service
    protocol = partial(
        Connection,
        patience_s=settings.request_s,
        most=settings.connections,
        life=service.life,
        opened=service.metrics.connections,
        refused=service.metrics.requests,
    )
    http = cast("type[asyncio.Protocol]", protocol)  # uvicorn only calls it
    return uvicorn.Config(
        app, settings.host, settings.port, http=http, ws="none", log_config=None, access_log=False, lifespan="on"
    )


class Connection(HttpToolsProtocol):
    """One connection: it is closed when its client keeps us waiting, and marked when more are open than may be.

    The timer runs while we wait for the client to send: from the first byte of a request to its last, and while there
    is no request at all. What is marked is refused by `service.routes.state.get_tenant`, so that probes are answered
    still.
    """

    def __init__(
        self, *, patience_s: float, most: int, life: Life, opened: Gauge, refused: Counter, **given: Any
    ) -> None:
        super().__init__(**given)
        self._life, self._opened, self._refused = life, opened, refused
        self._patience_s, self._most = patience_s, most
        self._timer: asyncio.TimerHandle | None = None
        self._until = 0.0  # on the loop's clock
        self._in_head, self._head = False, 0
        self._crowded = False
        # Whether what comes is dropped, how much was, and whether it is not even read for where the request ends.
        self._lingering, self._dropped, self._deaf = False, 0, False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection was opened: the time in which the client has to send a request begins."""
        super().connection_made(transport)
        self._opened.inc()
        self._crowded = len(self.connections) > self._most
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection was closed: its timer ends."""
        super().connection_lost(exc)
        self._opened.dec()
        self._stop()

    def data_received(self, data: bytes) -> None:
        """Bytes came; a head is counted from the second piece on."""
        if self._deaf:
            self._drop(len(data))
            return
        before = self.scope
        super().data_received(data)
        if self.cycle is not None and self.cycle.response_complete:
            self._drop(len(data))
        if self._in_head and self.scope is before and not self._deaf:
            self._head += len(data)
            if self._head > _HEAD_BYTES:
                self._refuse(HeadTooLarge(f"the request's head is over {_HEAD_BYTES:,} bytes: send fewer headers"))

    def on_message_begin(self) -> None:
        """A request's first byte came."""
        super().on_message_begin()
        self._in_head, self._head = True, 0
        self._wait()

    def on_headers_complete(self) -> None:
        """A request's head came; the app learns whether there is room for it."""
        self._in_head = False
        self.scope["state"]["crowded"] = self._crowded
        super().on_headers_complete()
        self.cycle.transport = _LastWords(self)
        if self._crowded or self._life.leaving:
            self.cycle.keep_alive = False

    def close_behind_answer(self) -> None:
        """Let an answer that has not begun say `connection: close`, and be the last."""
        if self.cycle is not None and not self.cycle.response_started:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Some of a request's body came."""
        self._until += len(body) / _BYTES_PER_S
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request's last byte came: the client's time is stopped until it was answered."""
        self._stop()
        super().on_message_complete()
        if self._lingering:
            self.transport.close()

    def on_response_complete(self) -> None:
        """The answer was sent: unless another request is in line, the client is waited for again."""
        self._dropped = 0
        if self._lingering:
            self.pipeline.clear()
        elif not self.pipeline:
            self._wait()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP."""
        self._refuse(MalformedRequest(msg))

    def linger(self, seconds: float = _LINGER_S) -> None:
        """Close, once what the client still sends of its request was read and dropped, or is too much."""
        if self._lingering or self.transport.is_closing() or not self.transport.can_write_eof():
            self.transport.close()
            return
        self._lingering, self._dropped = True, 0
        self.transport.write_eof()
        self.flow.resume_reading()
        self._stop()
        self._timer = self.loop.call_later(seconds, self.transport.close)

    def _drop(self, count: int) -> None:
        before, self._dropped = self._dropped, self._dropped + count
        if self._dropped > _LINGER_BYTES:
            self.transport.close()
        elif before > _BUFFERED and before // _DROPPED_AT_ONCE < self._dropped // _DROPPED_AT_ONCE:
            self.flow.pause_reading()
            self.loop.call_later(_PAUSE_S, self._read_on)

    def _read_on(self) -> None:
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def _wait(self) -> None:
        self._stop()
        self._until = self.loop.time() + self._patience_s
        self._timer = self.loop.call_later(self._patience_s, self._judge)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _judge(self) -> None:
        # While we do not read, the client can send nothing.
        left = self._patience_s if self.flow.read_paused else self._until - self.loop.time()
        if left > 0:
            self._timer = self.loop.call_later(left, self._judge)
        else:
            self._refuse(RequestTooSlow("the request took too long to come: send it faster"))

    def _refuse(self, error: ServiceError) -> None:
        """Close; say why, unless nothing was asked or what is said would be taken for another request's answer."""
        cycle = self.cycle
        if self._in_head:
            listening = cycle is None or cycle.response_complete
        else:
            listening = cycle is not None and cycle.more_body and not cycle.response_started
        if listening and not self._lingering and not self.transport.is_closing():
            self._refused.labels("", error.code).inc()
            self.transport.write(_answer(error))
            self.linger(_REFUSED_LINGER_S)
            self._deaf = True
        else:
            self.transport.close()


class _LastWords(asyncio.Transport):
    """The transport as one answer sees it: to close it while its request still comes is to linger."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._transport, self._connection, self._cycle = connection.transport, connection, connection.cycle

    def write(self, data: "bytes | bytearray | memoryview[Any]") -> None:
        """Send bytes to the client (asyncio.Transport.write)."""
        self._transport.write(data)

    def is_closing(self) -> bool:
        """Whether the connection is closed or being closed (asyncio.Transport.is_closing)."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Close the connection; while the request's body still comes, only after its rest was read and dropped."""
        if self._cycle.more_body:
            self._connection.linger()
        else:
            self._transport.close()


def _answer(error: ServiceError) -> bytes:
    told = failure.describe(error, uuid.uuid4().hex)
    body = ErrorResponse(error=told.body).model_dump_json().encode()
    lines = (
        "content-type: application/json",
        f"content-length: {len(body)}",
        "connection: close",
        f"x-request-id: {told.body.request_id}",
    )
    return STATUS_LINE[told.status] + "\r\n".join([*lines, "", ""]).encode() + body
