"""The machine of versions under every order of events: what operators, disks, engines and clients may do to it.

Invariants, checked after every step and at the end:
1. Never another version's answer: the words that come are those of the weights of the version that is named, and that
   version was published under the name that was asked.
2. Never final for a condition: REFUSED is only what was published broken, or what was changed on the disk.
3. No lease leaked: when all requests have ended, no version has holders, users or waiters, and the engine has no more
   versions than it has room for; every place is free or taken by a version that serves.
4. What is answered once is answered again when faults have ended: no state is a dead end.
"""

import asyncio
import shutil
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from loadtest.store.replica import Replica
from loadtest.store.stores import Maker
from service.adapters.base import Base
from service.adapters.modules import WEIGHTS
from service.adapters.proof import Proof
from service.adapters.store import Store, digest
from service.adapters.version import BAD, State
from service.engine.fake import FakeEngine
from service.errors import AdapterRefused, ServiceError, StoreUnavailable
from service.prompt import Prompt
from service.types import Adapter, Query
from tests.conftest import ADAPTERS, CHECKPOINT
from tests.simulated import SimulatedLoop

NAMES = st.sampled_from("abc")
LABELS = st.sampled_from("123")
CAPACITY = 2


class Faulty(FakeEngine):
    """Fails to load as often as it is told, and answers otherwise than it should as often."""

    refusals = lies = 0

    async def load(self, adapter: Adapter) -> None:
        if self.refusals:
            self.refusals -= 1
            await self.check()
            raise AdapterRefused("engine", "out of memory, for a moment")
        await super().load(adapter)

    def _words(self, query: Query) -> list[str]:
        if query.id.startswith("probe-") and query.adapter and self.lies:
            self.lies -= 1
            return ["nonsense"]
        return super()._words(query)


class Faults(Store):
    """A store whose disk fails for one version, or as a whole."""

    broken: str | None = None
    away = False

    def catalog(self) -> Any:
        if self.away:
            raise StoreUnavailable("no route to the store")
        return super().catalog()

    def fetch(self, adapter: Adapter, whole: bool = False) -> None:
        if self.away or adapter.name == self.broken:
            raise OSError(5, "Input/output error")
        super().fetch(adapter, whole)


class Inline:
    """Threads are no part of the machine; with the simulated clock there are none."""

    async def run(self, function: Any, *arguments: Any) -> Any:
        await asyncio.sleep(0)
        return function(*arguments)


class Machine(RuleBasedStateMachine):
    """Rules are what happens; `loop` runs what it sets off in simulated time."""

    proof: Proof
    made: dict[tuple[str, str], dict[str, bytes]]
    signs: dict[str, str]

    @initialize()
    def start(self) -> None:
        self.loop = SimulatedLoop()
        self.folder = Path(mkdtemp())
        (self.folder / "store").mkdir()
        self.store = Faults(self.folder / "store", self.folder / "own")
        self.trainer = Store(self.folder / "store")  # on another machine
        self.published: dict[str, set[str]] = {name: set() for name in "abc"}
        self.bad: set[str] = set()
        self.asked: list[tuple[str, asyncio.Task[tuple[Adapter, str]]]] = []
        self.wait(self._start())

    async def _start(self) -> None:
        self.replica = Replica(self.store, self.proof, CAPACITY)
        self.engine = self.replica.engine = Faulty(step_s=0.01)
        self.replica.build(Inline())  # type: ignore[arg-type]
        await self.engine.start()

    def wait(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    @rule(name=NAMES, label=LABELS)
    def publish(self, name: str, label: str) -> None:
        self.published[name].add(self.trainer.publish(name, self.made[name, label]).version)

    @rule(name=NAMES, label=LABELS)
    def publish_broken(self, name: str, label: str) -> None:
        version = self.trainer.publish(
            name, self.made[name, label] | {WEIGHTS: b"no tensors " + label.encode()}
        ).version
        self.bad.add(version)

    @rule(name=NAMES)
    def roll_back(self, name: str) -> None:
        self._try(self.replica.releases.roll_back(name, "stable"))

    @rule(name=NAMES)
    def canary(self, name: str) -> None:
        self._try(self.replica.releases.point(name, "canary", "stable", 0.5))

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        self._try(self.replica.releases.delete(name))

    @rule(name=NAMES, pinned=st.booleans())
    def pin(self, name: str, pinned: bool) -> None:
        self._try(self.replica.releases.pin(name, pinned))

    @rule()
    def look(self) -> None:
        self._try(self.replica.residency.refresh())

    @rule(name=st.one_of(st.none(), NAMES))
    def disk_fails(self, name: str | None) -> None:
        self.store.broken = name

    @rule(away=st.booleans())
    def store_goes(self, away: bool) -> None:
        self.store.away = away

    @rule(times=st.integers(1, 3))
    def loads_fail(self, times: int) -> None:
        self.engine.refusals = times

    @rule(times=st.integers(1, 3))
    def probes_lie(self, times: int) -> None:
        self.engine.lies = times

    @rule()
    def engine_dies(self) -> None:
        self.wait(self._die())

    async def _die(self) -> None:
        """As service/engine/supervised.py: what is under way fails, then there is another."""
        await self.engine.stop()
        await self.replica.residency.forget()
        await asyncio.sleep(0.05)
        await self.engine.start()
        await self.replica.residency.restore()

    @rule(name=NAMES, count=st.integers(1, 4), suffix=st.sampled_from(["", "@canary", "@stable"]))
    def ask(self, name: str, count: int, suffix: str) -> None:
        async def begin() -> None:
            for _ in range(count):
                task = asyncio.ensure_future(self.replica.ask(name + suffix))
                self.asked.append((name, task))
            await asyncio.sleep(0)

        self.wait(begin())

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        _, task = data.draw(st.sampled_from(self.asked))
        task.cancel()
        self.wait(asyncio.sleep(0))

    @rule(seconds=st.sampled_from([0.005, 0.02, 1.0, 30.0, 700.0]))
    def time_passes(self, seconds: float) -> None:
        self.wait(asyncio.sleep(seconds))

    @invariant()
    def never_anothers_answer(self) -> None:
        for name, task in [*self.asked]:
            if task.done():
                self.asked.remove((name, task))
                self._judge(name, task)

    def _judge(self, name: str, task: "asyncio.Task[tuple[Adapter, str]]") -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            adapter, sign = task.result()
            assert adapter.name == name
            assert adapter.version in self.published[name]
            assert sign == self.signs[adapter.version]
        else:
            assert isinstance(error, ServiceError), repr(error)

    @invariant()
    def never_final_for_a_condition(self) -> None:
        for adapter, version in self.replica.residency.reconciler.versions.items():
            if version.state is State.REFUSED:
                assert adapter.version in self.bad, version.status
            if version.state in BAD - {State.REFUSED}:
                assert version.status.retry_at is not None

    @invariant()
    def never_more_than_there_is_room_for(self) -> None:
        assert self.engine.most <= CAPACITY

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            try:
                self.wait(self._end())
            finally:
                self.loop.close()
                shutil.rmtree(self.folder)

    async def _end(self) -> None:
        if self.asked:
            await asyncio.wait([task for _, task in self.asked])
        self.never_anothers_answer()
        reconciler = self.replica.residency.reconciler
        self.store.broken, self.store.away, self.engine.refusals, self.engine.lies = None, False, 0, 0
        await asyncio.sleep(700)
        await self.replica.residency.refresh()
        for name in self.replica.residency.served.names():
            wanted = self.replica.residency.served.shelves[name].aliases.named["stable"].version
            if not self.bad & {wanted}:
                adapter, sign = await self.replica.ask(f"{name}@stable")
                assert sign == self.signs[adapter.version]
        await asyncio.sleep(1)
        for version in reconciler.versions.values():
            assert (version.holders, version.users, version.waiting) == (0, 0, []), version
            assert version.task is None, version
        assert reconciler.free_places + len(reconciler.loaded()) == CAPACITY
        await self.replica.residency.close()
        await self.engine.stop()

    def _try(self, work: Any) -> None:
        async def attempt() -> None:
            with suppress(ServiceError):
                await asyncio.wait_for(work, 100)

        self.wait(attempt())


@pytest.fixture(scope="module")
async def maker(prompt: Prompt) -> Maker:
    proof = Proof.for_checkpoint(CHECKPOINT, Base.of_checkpoint(CHECKPOINT), prompt, max_rank=64)
    maker = Maker(Store(ADAPTERS).stable("digits"), proof)
    for name in "abc":
        for label in "123":
            await maker.make(name + label)
    return maker


def test_the_machine_keeps_its_invariants_whatever_happens(maker: Maker) -> None:
    made = {(name, label): maker.made[name + label] for name in "abc" for label in "123"}
    signs = {digest(files): maker.sign[digest(files)] for files in made.values()}
    kind = type("Machine", (Machine,), {"proof": maker.proof, "made": made, "signs": signs})
    run_state_machine_as_test(
        kind,
        settings=settings(
            max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
