"""A lean HTTP client: requests are sent when they are due (`send_all`), or by clients in a closed loop (`keep_asking`).

In a closed loop each client sends its next request once its last is answered. With `send_all` latency counts from when
a request was due: a service that stalls is charged for all who came meanwhile.
"""

import asyncio
import contextlib
import itertools
import math
import re
import selectors
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import httpx
import uvloop

# select(2) takes at most 1,024 files. A request that waits for a free connection is charged for the wait.
_CONNECTIONS = 900
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)
# Finds an error among the answers of a batch or the events of a stream, and events with text, of /v1/vqa or of chat.
_ERROR = re.compile(rb'"error": ?\{')
_TOKEN = re.compile(rb'"(?:delta|content)": ?"(?!")')


@dataclass(frozen=True, slots=True)
class Sent:
    """The outcome of one request: its status (0: no answer came), and seconds from when it was due to its answer.

    `flow` is the adapter or tenant that it counts for, `at` when it was due, in seconds from the start; `again` says
    whether its answer had a Retry-After. Of a stream, `tokens` is the number of events with text, `first` and `last`
    the seconds from due to the first and the last of them.
    """

    flow: str
    status: int
    seconds: float
    at: float = 0.0
    again: bool = False
    tokens: int = 0
    first: float = math.nan
    last: float = math.nan


@dataclass(frozen=True, slots=True)
class Due:
    """A request, encoded, that is to be sent `at` seconds from the start; `flow` is what it counts for."""

    at: float
    flow: str
    content: bytes


@dataclass(slots=True)
class Reply:
    """What a server answered: the head as it came, the body, and when events with text came (time.perf_counter)."""

    head: bytes
    body: bytes = b""
    tokens: list[float] = field(default_factory=list)

    @property
    def status(self) -> int:
        """The HTTP status; 207 for a 200 with an error inside, as batches and streams have them."""
        status = int(self.head.split(b" ", 2)[1])
        return 207 if status == 200 and _ERROR.search(self.body) else status


@dataclass(frozen=True, slots=True)
class Window:
    """What was answered within a time of `seconds`: the seconds that each unit took, and all requests' statuses."""

    took: list[float]
    statuses: list[int]
    seconds: float


def encode(request: httpx.Request) -> bytes:
    """The bytes of a request as HTTP/1.1 sends them."""
    lines = [f"{request.method} {request.url.raw_path.decode()} HTTP/1.1".encode()]
    lines += [name + b": " + value for name, value in request.headers.raw]
    return b"\r\n".join(lines) + b"\r\n\r\n" + request.read()


def post(path: str, content_type: str, body: bytes) -> bytes:
    """The bytes of a POST as HTTP/1.1 sends them; faster than `encode`, for thousands of them a second."""
    head = f"POST {path} HTTP/1.1\r\nhost: test\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def with_key(request: bytes, key: str) -> bytes:
    """The same request with the header `Authorization: Bearer KEY`."""
    return request.replace(b"\r\n", f"\r\nauthorization: Bearer {key}\r\n".encode(), 1)


def send_all(url: str, requests: Iterable[Due]) -> list[Sent]:
    """Send each request when it is due, whether or not others were answered; return all outcomes."""
    # select(2) wakes to the microsecond, epoll to the millisecond.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        return runner.run(_send_all(url, requests))


def keep_asking(
    url: str,
    clients: int,
    make: Callable[[], Sequence[bytes]],
    warm_s: float,
    seconds: float,
    at_edge: Callable[[], object] = lambda: None,
) -> Window:
    """Have `clients` clients each send the requests of a unit at once, await all answers, and send the next unit.

    Units that end in the first `warm_s` seconds are not counted, those that end in the `seconds` after are. `at_edge`
    is called when the counted time begins and when it ends. Returns when all requests that were sent are answered.
    """
    return uvloop.run(_keep_asking(url, clients, make, warm_s, seconds, at_edge))


def exchange_all(url: str, requests: Sequence[bytes]) -> list[Reply]:
    """Send requests one after the other and return what the server answered."""

    async def run() -> list[Reply]:
        async with Connections(url) as connections:
            return [await connections.exchange(content) for content in requests]

    return uvloop.run(run())


class Connections:
    """Connections to one server, kept open between requests."""

    def __init__(self, url: str) -> None:
        self._url = httpx.URL(url)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._room = asyncio.Semaphore(_CONNECTIONS)

    async def __aenter__(self) -> "Connections":
        return self

    async def __aexit__(self, *_: object) -> None:
        for _reader, writer in self._idle:
            writer.close()

    async def exchange(self, content: bytes) -> Reply:
        """Send a request over a connection that is free, and return the answer once all of it came.

        Raises:
            OSError, EOFError: the server hung up, or cannot be reached.
        """
        async with self._room:
            while self._idle and self._idle[-1][0].at_eof():
                self._idle.pop()[1].close()  # the service closes what is idle for long
            connection = reader, writer = self._idle.pop() if self._idle else await self._connect()
            try:
                writer.write(content)
                reply = Reply(await reader.readuntil(b"\r\n\r\n"))
                if (length := _LENGTH.search(reply.head)) is not None:
                    reply.body = await reader.readexactly(int(length[1]))
                else:
                    await _read_chunks(reader, reply)
            except BaseException:
                writer.close()
                raise
            self._idle.append(connection)
            return reply

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self._url.host, self._url.port)


async def _read_chunks(reader: asyncio.StreamReader, reply: Reply) -> None:
    """Read a body in chunks, as streams have one, with the times of its events."""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        chunk = (await reader.readexactly(size + 2))[:-2]
        reply.tokens += [time.perf_counter()] * len(_TOKEN.findall(chunk))
        reply.body += chunk
    await reader.readexactly(2)


async def _send_all(url: str, requests: Iterable[Due]) -> list[Sent]:
    started, sending = time.perf_counter() + 0.1, list[asyncio.Task[Sent]]()
    async with Connections(url) as connections:
        for due in requests:
            await asyncio.sleep(max(0.0, started + due.at - time.perf_counter()))
            sending.append(asyncio.create_task(_send(connections, due, started + due.at)))
        return await asyncio.gather(*sending)


async def _send(connections: Connections, due: Due, at: float) -> Sent:
    reply = Reply(b"HTTP/1.1 0 none")
    with contextlib.suppress(OSError, EOFError):
        reply = await connections.exchange(due.content)
    seconds, again = time.perf_counter() - at, b"\r\nretry-after:" in reply.head.lower()
    if not reply.tokens:
        return Sent(due.flow, reply.status, seconds, due.at, again)
    first, last = reply.tokens[0] - at, reply.tokens[-1] - at
    return Sent(due.flow, reply.status, seconds, due.at, again, len(reply.tokens), first, last)


async def _keep_asking(
    url: str,
    clients: int,
    make: Callable[[], Sequence[bytes]],
    warm_s: float,
    seconds: float,
    at_edge: Callable[[], object],
) -> Window:
    began = time.perf_counter() + warm_s
    ended = began + seconds
    took, statuses = list[float](), list[int]()

    async def ask() -> None:
        while (at := time.perf_counter()) < ended:
            found = await asyncio.gather(*(_send(connections, Due(0.0, "", each), at) for each in make()))
            if began <= time.perf_counter() < ended:
                took.append(max(each.seconds for each in found))
                statuses.extend(each.status for each in found)

    async def watch() -> None:
        for edge in (began, ended):
            await asyncio.sleep(max(0.0, edge - time.perf_counter()))
            at_edge()

    async with Connections(url) as connections:
        await asyncio.gather(watch(), *itertools.starmap(ask, [()] * clients))
    return Window(took, statuses, seconds)


def percentile(sorted_: list[float], percent: float) -> float:
    """The least of the sorted values that `percent` (0 to 100) per cent of them do not exceed."""
    return sorted_[max(0, math.ceil(percent / 100 * len(sorted_)) - 1)]
