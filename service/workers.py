"""The one door to threads: whatever blocks or computes goes through here, never on the event loop."""

import asyncio
import contextvars
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Workers:
    """A pool of at most `threads` threads; 0 is one for each core.

    A thread takes its next work when it has ended the last, whoever still waits for that: there are never more at work
    than the pool has, however many callers left. Work that has not begun when its caller leaves is never begun.
    """

    def __init__(self, threads: int = 0, name: str = "worker") -> None:
        self._pool = ThreadPoolExecutor(threads or os.cpu_count() or 1, thread_name_prefix=name)

    async def run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run `function(*args)` on a thread and return what it returns or raise what it raises."""
        work = partial(contextvars.copy_context().run, function, *args)
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)
