"""A lean HTTP client that sends when a request is due, whatever came of those before.

Latency counts from when a request was due: a service that stalls is charged for all who came meanwhile.
"""

import asyncio
import contextlib
import math
import re
import selectors
import time
from collections.abc import Iterable
from dataclasses import dataclass

import httpx

# select(2) knows no more files than 1,024; who waits for one of these is charged for it.
_CONNECTIONS = 900
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)
_CPU = re.compile(r"^process_cpu_seconds_total (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Sent:
    """What came of one request: the adapter it named, its HTTP status (0: none came), seconds from due to answered.

    `at` is when it was due, in seconds from the start; `again` is whether its answer had a Retry-After.
    """

    flow: str
    status: int
    seconds: float
    at: float = 0.0
    again: bool = False


@dataclass(frozen=True, slots=True)
class Due:
    """A request to send, encoded, in seconds from the start."""

    at: float
    flow: str
    content: bytes


def encode(request: httpx.Request) -> bytes:
    """A request as it goes over the wire."""
    lines = [f"{request.method} {request.url.raw_path.decode()} HTTP/1.1".encode()]
    lines += [name + b": " + value for name, value in request.headers.raw]
    return b"\r\n".join(lines) + b"\r\n\r\n" + request.read()


def send_all(url: str, requests: Iterable[Due]) -> list[Sent]:
    """Send each request when it is due, and return what came of them once all have been answered."""
    # select(2) wakes to the microsecond, epoll to the millisecond.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        return runner.run(_Client(url).send_all(requests))


class _Client:
    def __init__(self, url: str) -> None:
        self._url = httpx.URL(url)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._room = asyncio.Semaphore(_CONNECTIONS)

    async def send_all(self, requests: Iterable[Due]) -> list[Sent]:
        started, sending = time.perf_counter() + 0.1, list[asyncio.Task[Sent]]()
        for due in requests:
            await asyncio.sleep(max(0.0, started + due.at - time.perf_counter()))
            sending.append(asyncio.create_task(self._send(due, started + due.at)))
        sent = await asyncio.gather(*sending)
        for _, writer in self._idle:
            writer.close()
        return sent

    async def _send(self, due: Due, at: float) -> Sent:
        status, again = 0, False
        with contextlib.suppress(OSError, EOFError):
            async with self._room:
                head = await self._exchange(due.content)
            status, again = int(head.split(b" ", 2)[1]), b"\r\nretry-after:" in head.lower()
        return Sent(due.flow, status, time.perf_counter() - at, due.at, again)

    async def _exchange(self, content: bytes) -> bytes:
        """Send it over a connection that is free, and return the head of the answer once all of that came."""
        while self._idle and self._idle[-1][0].at_eof():
            self._idle.pop()[1].close()  # the service closes what is idle for long
        connection = reader, writer = self._idle.pop() if self._idle else await self._connect()
        try:
            writer.write(content)
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            assert length is not None  # only streams have none
            await reader.readexactly(int(length[1]))
        except BaseException:
            writer.close()
            raise
        self._idle.append(connection)
        return head

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self._url.host, self._url.port)


def cpu_seconds(url: str) -> float:
    """CPU time that the service's process has used, by its own /metrics."""
    found = _CPU.search(httpx.get(f"{url}/metrics").text)
    return float(found[1]) if found else float("nan")


def percentile(sorted_: list[float], percent: float) -> float:
    """The least value that `percent` of them do not exceed."""
    return sorted_[max(0, math.ceil(percent / 100 * len(sorted_)) - 1)]
