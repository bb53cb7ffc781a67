"""Only one side is inside, all of a side at once, and nobody waits for more than one turn of the other."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.sides import Sides


async def test_one_side_shares_and_the_other_waits() -> None:
    sides, order = Sides(), list[str]()

    async def come(side: str, name: str) -> None:
        async with sides.on(side):
            order.append(name)

    async with AsyncExitStack() as inside:
        for _ in range(2):
            await inside.enter_async_context(sides.on("a"))
        other = asyncio.create_task(come("b", "b1"))
        await asyncio.sleep(0)
        late = asyncio.create_task(come("a", "a3"))
        another = asyncio.create_task(come("b", "b2"))
        await asyncio.sleep(0.01)
        assert order == []  # a newcomer of the side inside waits behind who waits already
    await asyncio.gather(other, late, another)
    assert order == ["b1", "b2", "a3"]


async def test_who_is_cancelled_while_waiting_holds_nobody_up() -> None:
    sides = Sides()

    async def come(side: str) -> str:
        async with sides.on(side):
            return side

    async with sides.on("a"):
        gone = asyncio.create_task(come("b"))
        await asyncio.sleep(0)
        behind = asyncio.create_task(come("a"))
        await asyncio.sleep(0)
        gone.cancel()
        assert await asyncio.wait_for(behind, 1) == "a"
        with pytest.raises(asyncio.CancelledError):
            await gone
        last = asyncio.create_task(come("b"))
        await asyncio.sleep(0)
    last.cancel()  # in the step in which it was let in
    await asyncio.gather(last, return_exceptions=True)
    assert await asyncio.wait_for(come("a"), 1) == "a"


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 3), st.integers(0, 3), st.booleans()), min_size=1, max_size=30
    )
)
def test_sides_never_meet_and_everybody_gets_in(works: list[tuple[str, int, int, bool]]) -> None:
    inside: list[str] = []

    async def work(sides: Sides, side: str, before: int, long: int) -> None:
        for _ in range(before):
            await asyncio.sleep(0)
        async with sides.on(side):
            inside.append(side)
            for _ in range(long):
                assert set(inside) == {side}
                await asyncio.sleep(0)
            inside.remove(side)

    async def run() -> None:
        sides = Sides()
        tasks = [asyncio.create_task(work(sides, *each[:3])) for each in works]
        await asyncio.sleep(0)
        for task, (*_, cancel) in zip(tasks, works, strict=True):
            if cancel and not inside:
                task.cancel()
        async with asyncio.timeout(5):
            found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [each for each in found if isinstance(each, AssertionError)] == []
        async with asyncio.timeout(1), sides.on("c"):
            pass

    inside.clear()
    asyncio.run(run())
