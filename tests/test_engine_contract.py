"""What every engine promises, asked of the fake one and of vLLM alike."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from service.adapters.store import Store
from service.engine import Engine
from service.engine.fake import FakeEngine
from service.engine.vllm import VLLMEngine
from service.errors import AdapterRefused, EngineUnavailable, PromptTooLong
from service.images import Preparation, picture
from service.prompt import Prompt
from service.settings import Settings
from service.types import Adapter, Delta, Query, Sampling
from tests.conftest import ADAPTERS, CHECKPOINT, Running, png


@pytest.fixture
async def fake_engine() -> AsyncGenerator[Engine, None]:
    engine = FakeEngine(step_s=0.002)
    await engine.start()
    yield engine
    await engine.stop()


@pytest.fixture(params=["fake", pytest.param("vllm", marks=pytest.mark.engine)])
def engine(request: pytest.FixtureRequest) -> Engine:
    if request.param == "fake":
        fake: Engine = request.getfixturevalue("fake_engine")
        return fake
    shared: Running = request.getfixturevalue("real")
    return shared.engine


@pytest.fixture
async def adapter(engine: Engine) -> Adapter:
    adapter = Store(ADAPTERS).stable("digits")
    await engine.load(adapter)
    return adapter


@pytest.fixture
def query(prompt: Prompt, request: pytest.FixtureRequest) -> Query:
    seen = picture(png(), Preparation.of_checkpoint(CHECKPOINT))
    return Query(request.node.name, prompt.encode("what color is the shape?"), (seen,))


async def collect(engine: Engine, query: Query) -> list[Delta]:
    async with aclosing(engine.generate(query)) as deltas:
        return [delta async for delta in deltas]


async def test_the_last_delta_alone_has_a_finish_reason(engine: Engine, query: Query) -> None:
    deltas = await collect(engine, query)
    assert [delta.finish_reason for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    assert deltas[-1].finish_reason == "stop"
    assert sum(delta.tokens for delta in deltas) >= 1
    assert deltas[-1].prompt_tokens >= len(query.token_ids)
    assert deltas[-1].logprob <= 0


async def test_greedy_answers_repeat(engine: Engine, query: Query) -> None:
    first = await collect(engine, query)
    second = await collect(engine, replace(query, id=f"{query.id}-2"))
    assert "".join(delta.text for delta in first) == "".join(delta.text for delta in second)


async def test_max_tokens_ends_with_length(engine: Engine, query: Query) -> None:
    deltas = await collect(engine, replace(query, sampling=Sampling(max_tokens=1)))
    assert sum(delta.tokens for delta in deltas) == 1
    assert deltas[-1].finish_reason == "length"


async def test_an_adapter_must_be_loaded_to_be_asked(engine: Engine, query: Query) -> None:
    stranger = Adapter("stranger", "0" * 64, Path("nowhere"))
    with pytest.raises(EngineUnavailable, match="not loaded"):
        await collect(engine, replace(query, adapter=stranger))


async def test_a_loaded_adapter_answers_and_another_version_is_another(
    engine: Engine, query: Query, adapter: Adapter
) -> None:
    deltas = await collect(engine, replace(query, adapter=adapter))
    assert deltas[-1].finish_reason == "stop"
    unloaded = replace(adapter, version="1" * 64)
    await engine.load(unloaded)
    await engine.unload(unloaded)
    await engine.unload(unloaded)
    with pytest.raises(EngineUnavailable):
        await collect(engine, replace(query, id=f"{query.id}-2", adapter=unloaded))


async def test_loading_twice_is_loading_once(engine: Engine, query: Query, adapter: Adapter) -> None:
    """A second load must neither fail nor disturb a mixed batch."""
    alone = [await collect(engine, replace(query, id=f"alone-{who}", adapter=who)) for who in (None, adapter)]
    await engine.load(adapter)
    stream = [replace(query, id=f"mixed-{n}", adapter=(None, adapter)[n % 2]) for n in range(24)]
    mixed = await asyncio.gather(*[collect(engine, each) for each in stream])
    for number, deltas in enumerate(mixed):
        assert "".join(delta.text for delta in deltas) == "".join(delta.text for delta in alone[number % 2])


async def test_an_adapter_unloaded_and_loaded_again_answers_as_before(
    engine: Engine, query: Query, adapter: Adapter
) -> None:
    copy = replace(adapter, version="4" * 64)
    answers: list[str] = []
    for number in range(2):
        await engine.load(copy)
        deltas = await collect(engine, replace(query, id=f"{query.id}-{number}", adapter=copy))
        answers.append("".join(delta.text for delta in deltas))
        await engine.unload(copy)
    assert answers[0] == answers[1]


async def test_files_that_do_not_load_are_refused_at_load(engine: Engine, query: Query, tmp_path: Path) -> None:
    with pytest.raises(AdapterRefused):
        await engine.load(Adapter("broken", "2" * 64, tmp_path))
    assert (await collect(engine, query))[-1].finish_reason == "stop"


async def test_a_prompt_over_the_context_is_too_long(engine: Engine, query: Query) -> None:
    with pytest.raises(PromptTooLong):
        await collect(engine, replace(query, sampling=Sampling(max_tokens=100_000)))
    with pytest.raises(PromptTooLong):
        await collect(engine, replace(query, token_ids=query.token_ids * 200, pictures=()))


async def test_many_at_once_answer_as_one_alone(engine: Engine, query: Query) -> None:
    alone = await collect(engine, query)
    together = await asyncio.gather(*[collect(engine, replace(query, id=f"{query.id}-{n}")) for n in range(16)])
    assert {"".join(delta.text for delta in deltas) for deltas in together} == {"".join(delta.text for delta in alone)}


async def test_closing_early_leaves_the_engine_well(engine: Engine, query: Query) -> None:
    async with aclosing(engine.generate(query)) as deltas:
        async for _ in deltas:
            break
    await engine.check()
    assert (await collect(engine, replace(query, id=f"{query.id}-2")))[-1].finish_reason == "stop"


@pytest.mark.parametrize("make", [FakeEngine, lambda: VLLMEngine(CHECKPOINT, Settings())], ids=["fake", "vllm"])
async def test_an_engine_not_started_is_unavailable(make: type[FakeEngine], query: Query, tmp_path: Path) -> None:
    engine = make()
    with pytest.raises(EngineUnavailable):
        await engine.check()
    with pytest.raises(EngineUnavailable):
        await collect(engine, query)
    with pytest.raises(EngineUnavailable):
        await engine.load(Adapter("any", "3" * 64, tmp_path))
