"""Slots are bounded, handed out fairly, and freed however a request ends; in simulated time, without a wait."""

import asyncio
import math
import random
from dataclasses import dataclass, replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.admission import Admission
from service.errors import DeadlineExceeded, Forbidden, LimitReached, Overloaded, ServiceError
from service.types import ANYONE, Tenant
from tests.simulated import simulate

TENANTS = {name: Tenant(name) for name in "ab"}


@dataclass(frozen=True)
class Visit:
    """A request of the simulation; times in seconds, `leaves` after which its caller hangs up."""

    at: float
    tenant: str
    adapter: str
    hold: int
    deadline: float
    leaves: float
    fails: bool

    async def make(self, admission: Admission, log: list[str], holding: list[int], early: bool = False) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self.at)
        deadline = loop.time() + self.deadline
        try:
            if early:
                admission.turn_away(TENANTS[self.tenant], self.adapter, 0)
            async with (
                asyncio.timeout(self.leaves),
                admission.slot(TENANTS[self.tenant], self.adapter, 0, deadline),
            ):
                assert loop.time() <= deadline
                holding.append(len(holding) + 1)
                try:
                    await asyncio.sleep(self.hold)
                    if self.fails:
                        raise ZeroDivisionError
                finally:
                    holding.pop()
            log.append("done")
        except (ServiceError, TimeoutError, ZeroDivisionError) as error:
            log.append(type(error).__name__)


visits = st.builds(
    Visit,
    at=st.integers(0, 30),
    tenant=st.sampled_from("ab"),
    adapter=st.sampled_from("xyz"),
    hold=st.integers(0, 9),
    deadline=st.integers(0, 40),
    leaves=st.integers(0, 40),
    fails=st.booleans(),
)


@settings(deadline=None)
@given(st.lists(visits, max_size=40), st.integers(1, 3), st.integers(0, 6))
def test_slots_are_never_exceeded_lost_or_idle_while_somebody_waits(
    visits: list[Visit], in_flight: int, waiting: int
) -> None:
    async def scenario() -> None:
        admission, log, holding = Admission(in_flight, waiting), list[str](), list[int]()

        async def watch() -> None:
            await asyncio.sleep(0.5)  # between the seconds at which things happen
            while True:
                assert len(holding) <= in_flight
                assert len(holding) == min(in_flight, admission.requests)
                assert admission.requests <= in_flight + waiting
                await asyncio.sleep(1)

        watching = asyncio.create_task(watch())
        await asyncio.gather(*[visit.make(admission, log, holding) for visit in visits])
        watching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watching
        assert len(log) == len(visits)  # no wake-up was lost: each one ended
        assert admission.requests == 0
        async with asyncio.timeout(1.5), asyncio.TaskGroup() as group:  # and every slot is there again
            for _ in range(in_flight):
                group.create_task(Visit(0, "a", "x", 1, 9, 9, False).make(admission, log, holding))

    simulate(scenario())


@settings(deadline=None)
@given(st.lists(visits, max_size=40), st.integers(1, 3), st.integers(0, 6))
def test_who_is_turned_away_is_whoever_would_have_been_refused(visits: list[Visit], in_flight: int, room: int) -> None:
    # No two things at the same time, which a loop's timers put in no order.
    apart = [
        replace(visit, at=visit.at + number / 64, deadline=visit.deadline + 1 / 512, leaves=visit.leaves + 1 / 256)
        for number, visit in enumerate(visits)
    ]

    async def scenario(early: bool) -> list[tuple[Visit, list[str], float]]:
        admission, loop = Admission(in_flight, room), asyncio.get_running_loop()

        async def ends(visit: Visit) -> tuple[Visit, list[str], float]:
            await visit.make(admission, log := list[str](), list[int](), early)
            return visit, log, loop.time()

        return await asyncio.gather(*map(ends, apart))

    assert simulate(scenario(True)) == simulate(scenario(False))


def test_more_than_slots_and_queue_is_overloaded_and_says_when_to_come_again() -> None:
    async def scenario() -> None:
        admission = Admission(in_flight=1, waiting=4)

        async def hold() -> None:
            async with admission.slot(ANYONE):
                await asyncio.sleep(2.5)

        await hold()
        tasks = [asyncio.create_task(hold()) for _ in range(5)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as refused:
            await hold()
        assert refused.value.retry_after_s == 10  # four wait, 2.5 s each
        await asyncio.gather(*tasks)

    simulate(scenario())


def test_a_full_queue_gives_way_to_another_tenant() -> None:
    async def scenario() -> list[str]:
        admission, ends = Admission(in_flight=1, waiting=2), list[str]()

        async def hold(name: str, tenant: str) -> None:
            try:
                async with admission.slot(TENANTS[tenant]):
                    await asyncio.sleep(1)
                    ends.append(name)
            except Overloaded:
                ends.append(f"{name} refused")

        async with asyncio.TaskGroup() as group:
            for name in ("a1", "a2", "a3", "b1", "a4"):
                group.create_task(hold(name, name[0]))
        return ends

    assert sorted(simulate(scenario())) == ["a1", "a2", "a3 refused", "a4 refused", "b1"]


def test_a_waiter_that_leaves_frees_its_place() -> None:
    async def scenario() -> None:
        admission = Admission(in_flight=1, waiting=1)
        async with admission.slot(ANYONE):
            waiter = asyncio.create_task(admission.slot(ANYONE).__aenter__())
            await asyncio.sleep(0)
            assert admission.requests == 2
            waiter.cancel()
            await asyncio.gather(waiter, return_exceptions=True)
            assert admission.requests == 1

    simulate(scenario())


def test_a_waiter_that_leaves_in_the_step_in_which_its_turn_comes_hands_the_slot_on() -> None:
    async def scenario() -> None:
        admission = Admission(in_flight=1, waiting=2)

        async def hold() -> None:
            async with admission.slot(ANYONE):
                await asyncio.sleep(1)

        first, second, third = (asyncio.create_task(hold()) for _ in range(3))
        first.add_done_callback(lambda _: second.cancel())
        async with asyncio.timeout(2.5):
            await third
        assert second.cancelled()
        assert admission.requests == 0

    simulate(scenario())


def test_a_deadline_that_passes_in_the_queue_ends_the_wait() -> None:
    async def scenario() -> None:
        admission, loop = Admission(in_flight=1, waiting=1), asyncio.get_running_loop()
        async with admission.slot(ANYONE):
            with pytest.raises(DeadlineExceeded):
                async with admission.slot(ANYONE, deadline=3):
                    pytest.fail("there was no slot")
            assert loop.time() == 3
            assert admission.requests == 1

    simulate(scenario())


def test_who_cannot_be_done_in_time_leaves_early_and_the_next_goes() -> None:
    """The quickest request of late took 2 s, so one with 1.5 s left is not worth a slot; a free slot is no wait."""

    async def scenario() -> None:
        admission, loop = Admission(in_flight=1, waiting=2), asyncio.get_running_loop()

        async def hold(seconds: float, deadline: float) -> float:
            async with admission.slot(ANYONE, deadline=deadline):
                began = loop.time()
                await asyncio.sleep(seconds)
            return began

        await hold(2, 9)
        first = asyncio.create_task(hold(3, 9))
        await asyncio.sleep(0)
        late, patient = asyncio.create_task(hold(0, 5.5)), asyncio.create_task(hold(0, 99))
        with pytest.raises(DeadlineExceeded):
            await late
        assert loop.time() == 3.5
        assert await first == 2
        assert await patient == 5
        assert await hold(0, loop.time() + 0.1) == 5

    simulate(scenario())


def test_a_tenant_has_as_many_requests_here_as_it_may_and_others_are_served() -> None:
    async def scenario() -> None:
        admission, small = Admission(in_flight=8, waiting=0), replace(ANYONE, name="small", concurrency=2)
        async with admission.slot(small), admission.slot(small):
            with pytest.raises(LimitReached):
                async with admission.slot(small):
                    pytest.fail("two are enough")
            async with admission.slot(ANYONE):
                assert admission.requests == 3
        async with admission.slot(small):
            assert admission.requests == 1

    simulate(scenario())


def test_who_is_patient_waits_for_its_tenants_own_requests_and_others_are_refused() -> None:
    async def scenario() -> list[str]:
        admission, ends = Admission(in_flight=8, waiting=8), list[str]()
        small, loop = replace(ANYONE, name="small", concurrency=2), asyncio.get_running_loop()

        async def hold(name: str, patient: bool = True, deadline: float = math.inf) -> None:
            try:
                async with admission.slot(small, deadline=deadline, patient=patient):
                    assert admission.requests <= 2
                    await asyncio.sleep(1)
                ends.append(f"{name} at {loop.time():g}")
            except (LimitReached, DeadlineExceeded) as error:
                ends.append(f"{name} {error.code}")

        async with asyncio.TaskGroup() as group:
            for number in range(4):
                group.create_task(hold(f"p{number}"))
            group.create_task(hold("hasty", patient=False))
            group.create_task(hold("late", deadline=1.5))
            gone = group.create_task(hold("gone"))
            await asyncio.sleep(0.5)
            gone.cancel()
            group.create_task(hold("last"))
        assert admission.requests == 0
        assert admission._patient == {}
        return ends

    told = {"hasty limit_reached", "p0 at 1", "p1 at 1", "late deadline_exceeded", "p2 at 2", "p3 at 2", "last at 3"}
    assert set(simulate(scenario())) == told


def test_what_comes_first_is_done_before_a_slot_is_taken_and_counts_for_its_tenant() -> None:
    async def scenario() -> None:
        admission, small = Admission(in_flight=1, waiting=1), replace(ANYONE, name="small", concurrency=1)

        async def fetch() -> None:
            await asyncio.sleep(5)

        async def hold() -> None:
            async with admission.slot(small, first=fetch):
                pass

        fetching = asyncio.create_task(hold())
        await asyncio.sleep(1)
        with pytest.raises(LimitReached):
            await hold()
        async with admission.slot(ANYONE):  # the only slot there is
            await asyncio.sleep(1)
        await fetching

    simulate(scenario())


def test_slots_are_shared_by_what_is_done_in_them_not_by_turns() -> None:
    """Two tenants want more than there is, one's answers are eight times as long: each has half of the time."""

    async def scenario() -> dict[str, float]:
        admission, held = Admission(in_flight=4, waiting=99), {"brief": 0.0, "long": 0.0}

        async def ask(name: str, seconds: float) -> None:
            while True:
                async with admission.slot(Tenant(name)) as settle:
                    await asyncio.sleep(seconds)
                    settle(100 * seconds)
                held[name] += seconds

        asking = [asyncio.create_task(ask(name, s)) for name, s in (("brief", 1), ("long", 8)) for _ in range(16)]
        await asyncio.sleep(1000)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        return held

    held = simulate(scenario())
    assert held["long"] == pytest.approx(held["brief"], rel=0.1)


def test_priority_beyond_the_tenants_own_is_forbidden_and_below_goes_earlier() -> None:
    async def scenario() -> list[str]:
        admission, served = Admission(in_flight=1, waiting=9), list[str]()
        keen = Tenant("keen", priority=3)

        async def hold(name: str, tenant: Tenant, priority: int) -> None:
            async with admission.slot(tenant, priority=priority):
                served.append(name)
                await asyncio.sleep(1)

        with pytest.raises(Forbidden):
            await hold("never", keen, 4)
        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(hold(f"calm {number}", Tenant("calm"), 0))
            group.create_task(hold("keen", keen, 3))
        return served

    assert simulate(scenario()) == ["calm 0", "keen", "calm 1", "calm 2"]


@cache
def others_p95_wait(flood: float, adapters: int, slots: int, apart: bool = True) -> float:
    """95th percentile, in seconds, of the wait of all adapters but one, which offers `flood` times its share.

    Each of the others offers 95% of its share; arrivals and holds (1 s on average) are drawn by fixed seeds.
    """
    waits: list[float] = []
    rate = slots / adapters

    async def scenario() -> None:
        admission, loop = Admission(slots, 256), asyncio.get_running_loop()

        async def visit(adapter: str, hold: float) -> None:
            came = loop.time()
            async with admission.slot(ANYONE, adapter if apart else "all"):
                if adapter != "hot":
                    waits.append(loop.time() - came)
                await asyncio.sleep(hold)

        async def offer(adapter: str, rate: float) -> None:
            draw, tasks = random.Random(adapter), []
            while rate and loop.time() < 2500 / slots:
                await asyncio.sleep(draw.expovariate(rate))
                tasks.append(asyncio.create_task(visit(adapter, draw.expovariate(1))))
            refused = [error for error in await asyncio.gather(*tasks, return_exceptions=True) if error]
            assert adapter == "hot" or not apart or not refused

        others = [offer(f"adapter {number}", 0.95 * rate) for number in range(adapters - 1)]
        await asyncio.gather(*others, offer("hot", flood * rate))

    simulate(scenario())
    return sorted(waits)[int(0.95 * len(waits))]


def floor_of_p95_wait(adapters: int, slots: int) -> float:
    """What the flood leaves to the others where it always stands last, and they go in order of arrival."""
    return math.log(20) / (slots * (1 - 0.95 * (adapters - 1) / adapters))


@pytest.mark.parametrize(("slots", "adapters"), [(4, 32), (8, 32), (16, 32), (4, 8), (8, 8), (16, 8)])
def test_an_adapter_at_ten_times_its_share_delays_the_others_as_little_as_can_be(slots: int, adapters: int) -> None:
    assert others_p95_wait(10, adapters, slots) <= 1.35 * floor_of_p95_wait(adapters, slots)


@pytest.mark.parametrize(("slots", "adapters"), [(4, 32), (8, 32), (16, 32), (4, 8), (8, 8), (16, 8)])
def test_an_adapter_at_ten_times_its_share_barely_delays_the_others(slots: int, adapters: int) -> None:
    """On a busy service, where there is a wait to compare with; docs/explanation/fairness.md tells of others."""
    without = others_p95_wait(0, adapters, slots)
    assert without > 0.5
    assert others_p95_wait(10, adapters, slots) <= 1.5 * without


@pytest.mark.parametrize(("slots", "adapters"), [(4, 32), (4, 8), (16, 8)])
def test_ten_times_its_share_delays_the_others_no_more_than_its_share_does(slots: int, adapters: int) -> None:
    assert others_p95_wait(10, adapters, slots) <= 1.5 * others_p95_wait(1, adapters, slots)


def test_in_one_line_for_all_the_same_flood_would_delay_the_others() -> None:
    assert others_p95_wait(10, 32, 8, apart=False) > 5 * others_p95_wait(0, 32, 8, apart=False)
