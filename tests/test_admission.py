"""Slots are bounded, handed out in order, and freed however a request ends."""

import asyncio

import pytest

from service.admission import Admission
from service.errors import Overloaded


async def test_more_than_slots_and_queue_is_overloaded() -> None:
    admission = Admission(in_flight=1, waiting=1)
    release = asyncio.Event()

    async def hold() -> None:
        async with admission.slot():
            await release.wait()

    tasks = [asyncio.create_task(hold()) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await hold()
    release.set()
    await asyncio.gather(*tasks)
    assert admission.here == 0


async def test_a_waiter_that_leaves_frees_its_place() -> None:
    admission = Admission(in_flight=1, waiting=1)
    async with admission.slot():
        waiter = asyncio.create_task(admission.slot().__aenter__())
        await asyncio.sleep(0)
        assert admission.here == 2
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)
        assert admission.here == 1


async def test_an_error_inside_frees_the_slot() -> None:
    admission = Admission(in_flight=1, waiting=0)
    with pytest.raises(ZeroDivisionError):
        async with admission.slot():
            raise ZeroDivisionError
    async with admission.slot():
        assert admission.here == 1
