"""Web servers for tests to fetch from: they count who connects, and say whatever bytes they are told to."""

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field

Say = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Origin:
    """A loopback server: `paths` maps a path to what is answered, `heads` are the requests that came."""

    port: int = 0
    paths: dict[str, bytes | Say] = field(default_factory=dict)
    heads: list[str] = field(default_factory=list)
    hits: int = 0
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        """A plain URL of this server."""
        return f"http://{host}:{self.port}{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, one answer."""
        self.hits += 1
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            self.heads.append(head)
            say = self.paths.get(head.split(" ")[1], answer(404))
            if isinstance(say, bytes):
                writer.write(say)
                await writer.drain()
            else:
                await say(writer)
        except (OSError, asyncio.IncompleteReadError):
            self.gone.set()
        finally:
            writer.close()


def answer(status: int, body: bytes = b"", *headers: str) -> bytes:
    """A whole answer with its length."""
    lines = [f"HTTP/1.1 {status} x", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@asynccontextmanager
async def origin(tls: ssl.SSLContext | None = None, ipv6: bool = False) -> AsyncGenerator[Origin, None]:
    """A server on a port of its own, over TLS where given a context; with `ipv6`, on ::1 as well if there is one."""
    made = Origin()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=tls)
    made.port = server.sockets[0].getsockname()[1]
    async with server, AsyncExitStack() as also:
        if ipv6 and socket.has_ipv6:
            with suppress(OSError):
                await also.enter_async_context(await asyncio.start_server(made.serve, "::1", made.port, ssl=tls))
        yield made
