"""Work for a client that is cancelled when the client hangs up, and responses that stream its results."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.errors import Cancelled

T = TypeVar("T")


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Await `work` and return what it returns; where the client hangs up first, cancel it and wait for its end.

    `receive` is the request's, whose body must have been read.

    Raises:
        Cancelled: the client hung up; and what `work` raises.
    """
    working, leaving = asyncio.create_task(work), asyncio.create_task(_disconnect(receive))
    gone = False

    def leave(left: "asyncio.Task[None]") -> None:
        nonlocal gone
        if not left.cancelled():
            left.exception()  # else asyncio says that nobody looked
            gone = working.cancel()

    leaving.add_done_callback(leave)
    try:
        return await working  # which is cancelled with us
    except BaseException as error:
        if not gone:
            raise
        cancelled = Cancelled("the client hung up")
        cancelled.recorded = True  # where the work is cancelled
        raise cancelled from error
    finally:
        leaving.cancel()


async def stream(
    request: Request,
    said: AsyncGenerator[T, None],
    write: Callable[[T], str],
    fail: Callable[[Exception], str],
) -> StreamingResponse:
    """The response that sends what `said` yields as server-sent events, in the form that `write` gives them.

    It is returned once `said` has yielded the first. An exception after that ends the stream with what `fail` writes.

    Raises:
        Cancelled: the client hung up before that; and what `said` raises before that.
    """
    first = await unless_gone(request.receive, _first(said))

    async def events() -> AsyncGenerator[str, None]:
        try:
            yield write(first)
            async for part in said:
                yield write(part)
        except Exception as error:
            yield fail(error)

    return _Events(events(), said)


class _Events(StreamingResponse):
    """Closes `source`, which ends the engine's work, once all is sent, or sending fails, or the client hangs up."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[str, None], source: AsyncGenerator[Any, None]) -> None:
        # A proxy that buffers would hold the first word back until the last.
        super().__init__(events, headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """ASGI."""
        async with aclosing(self._source):
            with suppress(Cancelled):
                await unless_gone(receive, self.stream_response(send))


async def _first(said: AsyncGenerator[T, None]) -> T:
    return await anext(said)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
