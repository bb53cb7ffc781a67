"""An engine that dies or hangs: what was asked fails at once, and another one serves as the first did."""

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.adapters.store import Store
from service.engine import Engine, supervised
from service.engine.fake import FakeEngine, sign
from service.engine.supervised import Supervised
from service.errors import EngineUnavailable
from service.metrics import Metrics
from service.settings import Settings
from service.types import Adapter, Delta, Query, Sampling
from tests.conftest import Running, serving, until
from tests.simulated import simulate
from tests.test_http_edge import ask, assert_error
from tests.test_streaming import events

CANARY = Query("canary", (1, 2), sampling=Sampling(max_tokens=1))
QUERY = Query("q", (1, 2, 3))


async def answers(engine: Engine, query: Query) -> bool:
    try:
        async with aclosing(engine.generate(query)) as deltas:
            return bool([delta async for delta in deltas])
    except EngineUnavailable:
        return False


async def nothing() -> None:
    """What a caller does who keeps nothing."""


def over(engine: FakeEngine, **options: float) -> Supervised:
    return Supervised(engine, CANARY, Settings(**options), Metrics())  # type: ignore[arg-type]


def weights(adapter: Adapter) -> str:
    return sign((adapter.path / "adapter_model.safetensors").read_bytes())


def restarts(running: Running) -> float:
    return running.app.state.service.metrics.registry.get_sample_value("vqa_engine_restarts_total") or 0.0


async def ready(running: Running) -> None:
    await until(running.app.state.service.warm.is_set)
    assert (await running.client.get("/readyz")).status_code == 200


@pytest.fixture
async def mortal(fake_adapters: Path) -> AsyncGenerator[Running, None]:
    """A warm service over a fake engine."""
    async with serving(Settings(adapters=str(fake_adapters)), FakeEngine()) as running:
        yield running


class Pausing(FakeEngine):
    """Says a word and then stands still, while `pausing`."""

    pausing = paused = False

    async def generate(self, query: Query) -> AsyncGenerator[Delta, None]:
        async with aclosing(super().generate(query)) as deltas:
            async for delta in deltas:
                if self.pausing:
                    self.paused = True
                    self.hang()
                yield delta


def fake_of(running: Running) -> FakeEngine:
    assert isinstance(running.engine, FakeEngine)
    return running.engine


@pytest.mark.parametrize(
    ("end", "canary_s"), [(FakeEngine.kill, 100.0), (FakeEngine.hang, 0.3)], ids=["killed", "hung"]
)
async def test_requests_under_way_fail_at_once_and_the_next_engine_answers(
    fake_adapters: Path, end: Callable[[FakeEngine], None], canary_s: float
) -> None:
    engine = Pausing()
    settings = Settings(adapters=str(fake_adapters), engine_canary_s=canary_s, engine_canary_deadline_s=canary_s)
    async with serving(settings, engine) as running:
        before = (await ask(running, adapter="digits")).json()["answer"]
        engine.pausing = True
        streaming = asyncio.create_task(ask(running, stream=True))
        await until(lambda: engine.paused)
        fields: list[dict[str, Any]] = [{}, {"adapter": "digits"}, {"choices": ["yes", "no"]}, {"beams": 2}]
        asking = [asyncio.create_task(ask(running, **each)) for each in fields]
        await until(lambda: engine.running == 5)
        engine.pausing = False
        end(engine)
        for response in await asyncio.wait_for(asyncio.gather(*asking), 2):
            assert_error(response, 503, "engine_unavailable")
            assert response.headers["retry-after"]
        (_, piece), (event, body) = events((await streaming).text)
        assert piece.keys() == {"delta"}
        assert (event, body["error"]["code"]) == ("error", "engine_unavailable")
        await until(lambda: restarts(running) == 1)
        await ready(running)
        assert (await ask(running, adapter="digits")).json()["answer"] == before
        assert restarts(running) == 1
        assert engine.running == running.app.state.service.vqa.admission.requests == 0


async def test_not_ready_from_the_death_on_but_live(fake_adapters: Path) -> None:
    class Held(FakeEngine):
        """Starts when it may."""

        def __init__(self) -> None:
            super().__init__()
            self.may_start = asyncio.Event()
            self.may_start.set()

        async def start(self) -> None:
            await self.may_start.wait()
            await super().start()

    engine = Held()
    async with serving(Settings(adapters=str(fake_adapters)), engine) as running:
        engine.may_start.clear()
        engine.kill()
        for _ in range(2):
            assert_error(await running.client.get("/readyz"), 503, "engine_unavailable")
            assert_error(await ask(running), 503, "engine_unavailable")
            assert (await running.client.get("/healthz")).status_code == 200
            await until(lambda: not running.app.state.service.warm.is_set())
        engine.may_start.set()
        await until(lambda: restarts(running) == 1)
        await ready(running)


async def test_death_while_an_adapter_loads_fails_who_waits_and_leaves_no_slot_taken(fake_adapters: Path) -> None:
    class Loading(FakeEngine):
        """Hangs in the middle of loading, where `load` would be told of no death."""

        hanging = loading = False

        async def load(self, adapter: Adapter) -> None:
            if self.hanging:
                self.loading = True
                await asyncio.Event().wait()
            await super().load(adapter)

    engine = Loading()
    async with serving(Settings(adapters=str(fake_adapters), max_cpu_loras=1), engine) as running:
        slots = running.app.state.service.residency.reconciler
        here, other = "digits", "shapes"
        (await ask(running, adapter=here)).raise_for_status()
        assert [adapter.name for adapter in slots.loaded()] == [here]
        engine.hanging = True
        asking = asyncio.create_task(ask(running, adapter=other))
        await until(lambda: engine.loading)
        engine.hanging = False
        engine.kill()
        assert_error(await asyncio.wait_for(asking, 1), 503, "engine_unavailable")
        await ready(running)
        for name in (other, here, other):
            answer = (await ask(running, adapter=name)).raise_for_status().json()["answer"]
            assert answer.startswith(weights(Store(fake_adapters).stable(name)))
        assert engine.most == 1


async def test_an_engine_killed_again_while_it_comes_back_comes_back_again(mortal: Running) -> None:
    engine = fake_of(mortal)
    engine.step_s = 0.2
    engine.kill()
    await until(lambda: restarts(mortal) == 1)
    engine.kill()
    await until(lambda: restarts(mortal) == 2)
    engine.step_s = 0.0
    await ready(mortal)
    engine.kill()
    await until(lambda: restarts(mortal) == 3)
    await ready(mortal)
    for name in ("digits", "shapes"):
        (await ask(mortal, adapter=name)).raise_for_status()


async def test_what_was_loaded_and_pinned_is_loaded_and_proven_again_before_it_is_ready(mortal: Running) -> None:
    engine, residency = fake_of(mortal), mortal.app.state.service.residency
    for name in ("digits", "shapes"):
        (await ask(mortal, adapter=name)).raise_for_status()
    before, loads = residency.reconciler.loaded(), engine.loads
    assert len(before) == 2
    engine.kill()
    await until(lambda: not residency.reconciler.loaded())
    text = (await mortal.client.get("/metrics")).text
    assert "vqa_adapter_resident{" not in text
    await ready(mortal)
    assert residency.reconciler.loaded() == before
    assert engine.loads == loads + 2


async def test_an_adapter_that_the_next_engine_does_not_apply_is_refused_there(fake_adapters: Path) -> None:
    class DeafLater(FakeEngine):
        """Applies adapters until it is killed."""

        deaf = False

        def _words(self, query: Query) -> list[str]:
            return super()._words(replace(query, adapter=None) if self.deaf else query)

    engine = DeafLater()
    async with serving(Settings(adapters=str(fake_adapters)), engine) as running:
        (await ask(running, adapter="digits")).raise_for_status()
        engine.deaf = True
        engine.kill()
        await until(lambda: restarts(running) == 1)
        await ready(running)
        assert "as the base does" in assert_error(await ask(running, adapter="digits"), 503, "adapter_unavailable")
        (await ask(running)).raise_for_status()


async def test_live_no_more_when_it_cannot_be_started_for_longer_than_the_option_says(fake_adapters: Path) -> None:
    class OnlyOnce(FakeEngine):
        starts = 0

        async def start(self) -> None:
            self.starts += 1
            if 1 < self.starts < 3:
                raise RuntimeError("no memory")
            await super().start()

    engine = OnlyOnce()
    async with serving(Settings(adapters=str(fake_adapters), engine_lost_s=0.5), engine) as running:
        engine.kill()
        await until(lambda: engine.starts == 2)
        assert (await running.client.get("/healthz")).status_code == 200
        await asyncio.sleep(0.5)
        assert "no memory" in assert_error(await running.client.get("/healthz"), 503, "engine_unavailable")
        await until(lambda: restarts(running) == 1)
        await ready(running)
        async with asyncio.timeout(5):  # it counts as lost until a step after it is ready
            while (await running.client.get("/healthz")).status_code != 200:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.005)


def test_starts_that_fail_come_ever_later_and_an_engine_that_lived_starts_over() -> None:
    class Frail(FakeEngine):
        def __init__(self) -> None:
            super().__init__()
            self.tries: list[float] = []

        async def start(self) -> None:
            self.tries.append(asyncio.get_running_loop().time())
            if 1 < len(self.tries) < 10:
                raise RuntimeError("not yet")
            await super().start()

    async def scenario() -> list[float]:
        engine = Frail()
        keeper = over(engine)
        await keeper.start()
        keeping = asyncio.create_task(keeper.supervise(nothing, nothing))
        for _ in range(2):
            await asyncio.sleep(1000)
            engine.kill()
        await asyncio.sleep(1000)
        keeping.cancel()
        return engine.tries

    tries = simulate(scenario())
    pauses = [later - earlier for earlier, later in itertools.pairwise(tries[1:])]
    assert pauses[:8] == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60])
    assert tries[10] == pytest.approx(2000, abs=2 * supervised.LOOK_S)
    assert len(tries) == 11


def test_a_busy_engine_gets_no_canary_and_a_slow_one_is_left_alone() -> None:
    class Counting(FakeEngine):
        canaries = 0

        async def generate(self, query: Query) -> AsyncGenerator[Delta, None]:
            self.canaries += query == CANARY
            async with aclosing(super().generate(query)) as deltas:
                async for delta in deltas:
                    yield delta

    async def scenario(step_s: float, busy: bool, whole: bool = False) -> tuple[int, float]:
        engine = Counting(step_s=step_s)
        metrics = Metrics()
        keeper = Supervised(engine, CANARY, Settings(engine_canary_s=10, engine_canary_deadline_s=20), metrics)
        await keeper.start()
        keeping = asyncio.create_task(keeper.supervise(nothing, nothing))
        until_ = asyncio.get_running_loop().time() + 1000
        while asyncio.get_running_loop().time() < until_:
            if busy:
                async with aclosing(keeper.generate(replace(QUERY, whole=whole))) as deltas:
                    assert [delta async for delta in deltas]
            else:
                await asyncio.sleep(100)
        keeping.cancel()
        return engine.canaries, metrics.registry.get_sample_value("vqa_engine_restarts_total") or 0.0

    assert simulate(scenario(1.0, busy=True)) == (0, 0)
    # An answer of three words or more whose later ones come together: that they are made is a sign of life.
    assert simulate(scenario(6.0, busy=True, whole=True)) == (0, 0)
    canaries, lost = simulate(scenario(15.0, busy=True))
    assert canaries
    assert not lost
    canaries, lost = simulate(scenario(1.0, busy=False))
    assert canaries > 50
    assert not lost
    canaries, lost = simulate(scenario(21.0, busy=False))
    assert lost


def test_a_hung_engine_is_found_within_the_canary_s_time_and_its_deadline() -> None:
    async def scenario() -> float:
        engine = FakeEngine()
        keeper = over(engine, engine_canary_s=10, engine_canary_deadline_s=20)
        await keeper.start()
        keeping = asyncio.create_task(keeper.supervise(nothing, nothing))
        await asyncio.sleep(5)
        engine.hang()
        began = asyncio.get_running_loop().time()
        with pytest.raises(EngineUnavailable, match="said nothing for 20 s"):
            async with aclosing(keeper.generate(QUERY)) as deltas:
                await anext(deltas)
        keeping.cancel()
        return asyncio.get_running_loop().time() - began

    assert simulate(scenario()) <= 10 + 20 - supervised.EARLIEST_S


async def test_time_in_which_our_own_loop_stood_still_is_not_the_engine_s_silence() -> None:
    engine = FakeEngine(step_s=0.1)
    keeper = over(engine, engine_canary_s=0.05, engine_canary_deadline_s=0.5)
    await keeper.start()
    keeping = asyncio.create_task(keeper.supervise(nothing, nothing))
    await until(lambda: engine.running == 1)  # the canary
    time.sleep(1.5)  # noqa: ASYNC251 - that is the point
    await asyncio.sleep(0.3)
    assert not keeper._metrics.registry.get_sample_value("vqa_engine_restarts_total")
    assert await answers(keeper, QUERY)
    keeping.cancel()


@pytest.mark.parametrize("step", range(6))
async def test_no_answer_of_a_lost_engine_counts_however_close_its_end(tmp_path: Path, step: int) -> None:
    """What is loaded must be in the engine that is there when `load` returns."""
    (tmp_path / "adapter_model.safetensors").write_bytes(b"weights")
    adapter, engine = Adapter("a", "0" * 64, tmp_path), FakeEngine()
    keeper = over(engine)
    await keeper.start()
    loading = asyncio.create_task(keeper.load(adapter))
    for _ in range(step):
        await asyncio.sleep(0)
    in_time = loading.done()
    await keeper.stop()
    await keeper.start()
    with suppress(EngineUnavailable):
        await loading
        in_time = in_time or await answers(keeper, replace(QUERY, adapter=adapter))
    assert in_time or loading.exception()
