"""The one door to threads: whatever blocks or computes goes through here, never on the event loop."""

import os
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import anyio.to_thread

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Workers:
    """A bounded set of threads; the bound keeps decoding from taking more cores than there are."""

    def __init__(self, threads: int = 0) -> None:
        self._limiter = anyio.CapacityLimiter(threads or os.cpu_count() or 1)

    async def run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run `function(*args)` on a thread and return what it returns or raise what it raises."""
        return await anyio.to_thread.run_sync(function, *args, limiter=self._limiter)
