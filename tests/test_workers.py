"""Pools of threads: who leaves frees a place only when the work it began has ended."""

import asyncio
import contextvars
import os
import sys
import threading

import pytest

from service.workers import Workers
from tests.conftest import until


class Work:
    """Work that ends when it is told to, and knows how many do it at once."""

    def __init__(self) -> None:
        self.end = threading.Event()
        self.begun = self.now = self.most = 0
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            self.begun += 1
            self.now += 1
            self.most = max(self.most, self.now)
        self.end.wait(10)
        with self._lock:
            self.now -= 1


async def test_who_leaves_frees_no_thread_that_still_works() -> None:
    workers, work = Workers(1), Work()
    for _ in range(8):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(workers.run(work), 0.02)
    waiting = asyncio.create_task(workers.run(lambda: "next"))
    await asyncio.sleep(0.05)
    assert (work.begun, work.most, waiting.done()) == (1, 1, False)
    work.end.set()
    assert await waiting == "next"
    assert work.begun == 1  # what nobody waited for was never begun


async def test_a_pool_uses_all_its_threads_and_no_more() -> None:
    workers, work = Workers(3), Work()
    tasks = [asyncio.create_task(workers.run(work)) for _ in range(7)]
    await until(lambda: work.now == 3)
    work.end.set()
    await asyncio.gather(*tasks)
    assert (work.begun, work.most) == (7, 3)


async def test_work_that_hangs_in_one_pool_stops_no_other() -> None:
    store, decoding, work = Workers(1), Workers(1), Work()
    hanging = asyncio.create_task(store.run(work))
    await until(lambda: work.now == 1)
    assert await decoding.run(lambda: "decoded") == "decoded"
    work.end.set()
    await hanging


async def test_what_is_raised_and_the_callers_context_pass_through() -> None:
    variable = contextvars.ContextVar("variable", default="none")
    variable.set("here")
    assert await Workers(1).run(variable.get) == "here"
    with pytest.raises(ZeroDivisionError):
        await Workers(1).run(lambda: 1 // 0)


@pytest.mark.skipif(sys.platform != "linux", reason="threads have nice values of their own on Linux alone")
async def test_threads_that_give_way_have_a_lower_priority_than_all_others() -> None:
    def nice() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    mine = nice()
    assert await Workers(1, gives_way=True).run(nice) == min(19, mine + 10)
    assert await Workers(1).run(nice) == mine
    assert nice() == mine
