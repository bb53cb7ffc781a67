"""Pools of threads for work that blocks or computes for long, which would hold up the event loop."""

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
# Added to the nice value of threads that give way: Linux then gives them a tenth of a core that a thread of nice 0
# wants too (weights 110 and 1024: sched_prio_to_weight in the kernel's kernel/sched/core.c).
_GIVES_WAY = 10


class Workers:
    """A pool of at most `threads` threads; 0 is one for each core.

    Where the caller of `run` is cancelled, work that has begun goes on to its end on its thread, which takes no other
    work meanwhile; work that has not begun is dropped.
    """

    def __init__(self, threads: int = 0, name: str = "worker", *, gives_way: bool = False) -> None:
        """`name` is how the threads are called; with `gives_way` they have a lower priority than others on Linux."""
        self._pool = ThreadPoolExecutor(threads or cores(), name, initializer=_give_way if gives_way else None)

    async def run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run `function(*args)` on a thread, in a copy of the caller's context variables, and return what it returns.

        Raises: what `function` raises.
        """
        work = partial(contextvars.copy_context().run, function, *args)
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


def _give_way() -> None:
    if sys.platform == "linux":  # where a thread has a nice value of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(19, os.nice(0) + _GIVES_WAY))
