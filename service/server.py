"""uvicorn's server with a shutdown of our own: what a signal does, the order in which things end, and the exit status.

SIGTERM: `/readyz` fails at once; for `--lame-duck-s` seconds (not after Ctrl-C, nor before the service was
ready) questions are still answered, each on a connection that is closed after its answer. Then new ones are refused,
and those under way have `--drain-s` seconds to end. Then the sockets are closed, the app's lifespan stops the engine,
and the status is 0. A second signal ends the process at once with status 1. Where the engine cannot start, the same
is done without the waits, and the status is 1.
"""

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from types import FrameType

import uvicorn
from fastapi import FastAPI

from service.connections import Connection, configure
from service.lifetime import Life
from service.settings import Settings

# Seconds that open connections have to close once the last request ended; one that still brings a request is refused.
LINGER_S = 1.0

log = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """Serves one app of `create_app` until a signal or `give_up` ends it."""

    def __init__(self, app: FastAPI, settings: Settings, abandon: Callable[[], None] = lambda: None) -> None:
        """`abandon` ends the engine's processes at once; it is called when a second signal comes."""
        super().__init__(configure(app, settings))
        self._settings, self._abandon = settings, abandon
        self._life: Life = app.state.service.life
        self._leaving: asyncio.Task[None] | None = None
        self.servers: list[asyncio.Server] = []  # uvicorn sets it when it listens, and a signal may come before
        self.failed = False
        app.state.give_up = self.give_up

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and log the addresses."""
        await super().startup(sockets)
        for server in self.servers:
            for listening in server.sockets:
                host, port = listening.getsockname()[:2]
                log.info("listening on http://%s:%d", host, port)

    def give_up(self) -> None:
        """Leave without waiting for requests, since the service could not start; `failed` is set."""
        self.failed = self.should_exit = True

    def leave(self, lame_duck_s: float) -> None:
        """Start the task that ends the server, after `lame_duck_s` seconds first; a second call does nothing."""
        if self._leaving is None:
            self._leaving = asyncio.get_running_loop().create_task(self._leave(lame_duck_s))

    async def _leave(self, lame_duck_s: float) -> None:
        """Sets `should_exit` also where a step before it fails: a service that was told to stop must not go on."""
        try:
            await self._refuse_and_drain(lame_duck_s)
        except Exception:
            log.exception("leaving in order failed: it ends all the same")
        self.should_exit = True

    async def _refuse_and_drain(self, lame_duck_s: float) -> None:
        drain_s, was_ready = self._settings.drain_s, self._life.warm.is_set()
        self._life.leave()
        for connection in self._connections():
            connection.close_behind_answer()
        if was_ready and lame_duck_s:
            log.info("told to stop: not ready any more, questions are answered for another %g s", lame_duck_s)
            await asyncio.sleep(lame_duck_s)
        self._life.close()
        log.info("new requests are refused; those under way have %g s to end", drain_s)
        try:
            async with asyncio.timeout(drain_s):
                await self._life.over()
        except TimeoutError:
            log.warning("some requests did not end in %g s: they are given up", drain_s)
            self._life.cut()
        await self._hang_up()

    async def _hang_up(self) -> None:
        """Accept no more connections, and wait up to LINGER_S seconds for the open ones to close."""
        for server in self.servers:
            server.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while self.server_state.connections:  # noqa: ASYNC110 - uvicorn announces no end of a connection
                    await asyncio.sleep(0.02)

    def _connections(self) -> list[Connection]:
        return [each for each in self.server_state.connections if isinstance(each, Connection)]

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Handle SIGINT and SIGTERM while the server runs; uvicorn would raise the signal again when it has stopped."""
        if threading.current_thread() is not threading.main_thread():  # signals reach the main thread only
            yield
            return
        loop, numbers = asyncio.get_running_loop(), (signal.SIGINT, signal.SIGTERM)

        def tell(number: int, _: FrameType | None) -> None:
            if self._life.leaving or self.should_exit:
                self._abandon()
                os._exit(1)
            self._life.leave()  # at once, so that the next signal is known to be the second
            loop.call_soon_threadsafe(self.leave, self._settings.lame_duck_s if number == signal.SIGTERM else 0.0)

        before = {number: signal.signal(number, tell) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def serve(app: FastAPI, settings: Settings, abandon: Callable[[], None] = lambda: None) -> int:
    """Serve until told to stop; returns the exit status: 0 after a shutdown in order, 1 where it could not start."""
    server = Server(app, settings, abandon)
    try:
        server.run()
    except SystemExit:  # uvicorn's, having logged why: the port is taken
        return 1
    return 1 if server.failed else 0
