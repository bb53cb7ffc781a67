"""The one door to threads: whatever blocks or computes goes through here, never on the event loop."""

import asyncio
import contextvars
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar, TypeVarTuple

from service.environment import cores

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
# Added to the nice value of threads that give way: Linux then gives them a tenth of a core that others want too.
_GIVES_WAY = 10


class Workers:
    """A pool of at most `threads` threads; 0 is one for each core.

    A thread takes its next work when it has ended the last, whoever still waits for that: there are never more at work
    than the pool has, however many callers left. Work that has not begun when its caller leaves is never begun.
    """

    def __init__(self, threads: int = 0, name: str = "worker", *, gives_way: bool = False) -> None:
        """Threads that give way have a lower priority than the event loop and the engine where Linux schedules them."""
        self._pool = ThreadPoolExecutor(threads or cores(), name, initializer=_give_way if gives_way else None)

    async def run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run `function(*args)` on a thread and return what it returns or raise what it raises."""
        work = partial(contextvars.copy_context().run, function, *args)
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


def _give_way() -> None:
    if sys.platform == "linux":  # where a thread has a nice value of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(19, os.nice(0) + _GIVES_WAY))
