"""What every engine promises, asked of the fake one, of a supervised one and of vLLM alike.

Of vLLM, what needs an engine of its own to be stopped or killed is in tests/test_engine_supervised_on_vllm.py.
"""

import asyncio
import itertools
import json
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from service import beams
from service.adapters.store import Store
from service.engine import Engine
from service.engine.fake import FakeEngine
from service.engine.sizing import Sizes
from service.engine.supervised import Supervised
from service.engine.vllm import VLLMEngine
from service.errors import AdapterRefused, EngineUnavailable, FormatRefused, PromptTooLong
from service.images import Preparation, picture
from service.metrics import Metrics
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


@pytest.fixture
async def supervised_engine() -> AsyncGenerator[Engine, None]:
    engine = supervised(FakeEngine(step_s=0.002))
    await engine.start()
    yield engine
    await engine.stop()


def supervised(engine: FakeEngine) -> Supervised:
    return Supervised(engine, Query("canary", (1,)), Settings(), Metrics())


@pytest.fixture(params=["fake", "supervised", pytest.param("vllm", marks=pytest.mark.engine)])
def engine(request: pytest.FixtureRequest) -> Engine:
    if request.param != "vllm":
        without_model: Engine = request.getfixturevalue(f"{request.param}_engine")
        return without_model
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


async def test_a_whole_answer_is_the_same_and_told_in_two_parts_at_most(engine: Engine, query: Query) -> None:
    wanted = replace(query, sampling=Sampling(logprobs=2))
    steps = await collect(engine, wanted)
    whole = await collect(engine, replace(wanted, id=f"{query.id}-2", whole=True))
    assert len(whole) <= 2
    assert whole[0].tokens == 1, "the first token is told when it comes"
    assert together(whole) == together(steps)
    assert whole[-1].finish_reason == steps[-1].finish_reason
    assert whole[-1].logprob == pytest.approx(steps[-1].logprob, abs=0.01)


async def test_tokens_that_are_kept_are_counted_as_they_are_made(
    engine: Engine, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = list[None]()
    monkeypatch.setattr(engine, "heard", lambda: heard.append(None))
    async with asyncio.timeout(60), aclosing(engine.generate(replace(query, whole=True))) as deltas:
        first = await anext(deltas)
        assert first.finish_reason is None
        assert first.made is not None
        told, rest = len(heard), asyncio.create_task(_next(deltas))
        while first.made() < 2:  # noqa: ASYNC110 - nobody tells when
            await asyncio.sleep(0.001)
        assert len(heard) > told, "each step is a sign of life"
        await rest


async def _next(deltas: AsyncGenerator[Delta, None]) -> Delta:
    return await anext(deltas)


def together(deltas: list[Delta]) -> tuple[str, int, list[str]]:
    """The text, its length in tokens, and the text of each token."""
    told = [token.text for delta in deltas for token in delta.told]
    return "".join(delta.text for delta in deltas), sum(delta.tokens for delta in deltas), told


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


async def test_after_an_alias_moves_no_prefix_of_the_old_version_is_served(
    engine: Engine, query: Query, adapter: Adapter, prompt: Prompt
) -> None:
    """Versions of one name are apart in the engine's caches: each answers as it does alone, whoever came before."""
    other = replace(Store(ADAPTERS).stable("shapes"), name=adapter.name)  # the next version of the same name
    await engine.load(other)
    numbers = itertools.count()

    async def said(version: Adapter, question: str) -> str:
        token_ids = prompt.encode(question)
        deltas = await collect(
            engine, replace(query, id=f"{query.id}-{next(numbers)}", token_ids=token_ids, adapter=version)
        )
        return "".join(delta.text for delta in deltas)

    asked = ("which digit is this?", "what shape is in the image?", "is there a circle?", "what color is the shape?")
    alone = {each: (await said(adapter, each), await said(other, each)) for each in asked}
    apart = [each for each, (one, two) in alone.items() if one != two]
    assert apart
    for each in apart:  # the same prompts again: their prefixes are in the cache
        assert [await said(version, each) for version in (other, adapter)] == [*reversed(alone[each])]
    await engine.unload(other)


async def test_with_an_adapter_in_every_slot_the_base_is_still_the_base(
    engine: Engine, query: Query, adapter: Adapter
) -> None:
    """On a CPU vLLM 0.32 takes "no adapter", -1, for its last slot."""
    alone = await collect(engine, query)
    copies = [replace(adapter, version=str(5 + n) * 64) for n in range(Sizes.of(CHECKPOINT, Settings()).max_loras)]
    for copy in copies:
        await engine.load(copy)
    asked = [replace(query, id=f"{query.id}-{n}", adapter=copy) for n, copy in enumerate([*copies, None])]
    *_, base = await asyncio.gather(*[collect(engine, each) for each in asked])
    for copy in copies:
        await engine.unload(copy)
    assert "".join(delta.text for delta in base) == "".join(delta.text for delta in alone)
    assert base[-1].logprob == pytest.approx(alone[-1].logprob, abs=0.02)


async def test_files_that_do_not_load_are_refused_at_load(engine: Engine, query: Query, tmp_path: Path) -> None:
    with pytest.raises(AdapterRefused):
        await engine.load(Adapter("broken", "2" * 64, tmp_path))
    assert (await collect(engine, query))[-1].finish_reason == "stop"


async def test_a_prompt_that_leaves_no_room_is_too_long(engine: Engine, query: Query) -> None:
    with pytest.raises(PromptTooLong):
        await collect(engine, replace(query, token_ids=query.token_ids * 200, pictures=()))


async def test_an_answer_has_at_most_the_room_that_is_left(engine: Engine, query: Query) -> None:
    whole = await collect(engine, query)
    endless = await collect(engine, replace(query, id=f"{query.id}-2", sampling=Sampling(max_tokens=10**9)))
    assert text(endless) == text(whole)
    assert endless[-1].finish_reason == "stop"
    assert engine.max_model_len is not None
    left = 2  # the query's own tokens, over and over
    longer = (query.token_ids * 200)[: engine.max_model_len - left]
    full = replace(query, id=f"{query.id}-3", token_ids=longer, pictures=(), sampling=Sampling(max_tokens=10**9))
    assert sum(delta.tokens for delta in await collect(engine, full)) <= left


@pytest.mark.engine
async def test_a_picture_of_a_prompt_too_long_is_as_good_as_any_in_the_next(
    real: Running, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever counts tokens after rendering leaves vLLM's front end believing that its engine has the picture."""
    seen = (picture(png("purple", (70, 66)), Preparation.of_checkpoint(CHECKPOINT)),)
    assert real.engine.max_model_len is not None
    filler = (query.token_ids[-2],) * (real.engine.max_model_len - len(query.token_ids) - 8)
    with pytest.raises(PromptTooLong):
        await collect(real.engine, replace(query, token_ids=query.token_ids + filler, pictures=seen))
    valid = replace(query, id=f"{query.id}-2", pictures=seen)
    tries = counted(monkeypatch)
    assert (await collect(real.engine, valid))[-1].finish_reason == "stop"
    assert tries == [f"{query.id}-2"]


@pytest.mark.engine
async def test_a_picture_that_vllm_s_engine_has_lost_is_sent_again(
    real: Running, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a request that was cancelled between rendering and running."""
    seen = (picture(png("orange", (70, 66)), Preparation.of_checkpoint(CHECKPOINT)),)
    assert isinstance(real.engine, VLLMEngine)
    engine, asked = real.engine, replace(query, pictures=seen)
    await engine._render(engine._running(), asked, 1)  # rendered, and never run
    tries = counted(monkeypatch)
    for number in range(2):
        again = replace(asked, id=f"{query.id}-{number}")
        assert (await collect(engine, again))[-1].finish_reason == "stop"
    assert tries == [f"{query.id}-0", f"{query.id}-0-again", f"{query.id}-1"]


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids by which vLLM is asked from now on."""
    from vllm.v1.engine.async_llm import AsyncLLM

    asked, generate = list[str](), AsyncLLM.generate

    def counting(self: Any, prompt: Any, sampling: Any, id_: str, **options: Any) -> Any:
        asked.append(id_)
        return generate(self, prompt, sampling, id_, **options)

    monkeypatch.setattr(AsyncLLM, "generate", counting)
    return asked


def text(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


async def test_an_answer_ends_before_a_stop_text(engine: Engine, query: Query) -> None:
    whole = text(await collect(engine, query))
    stop = whole.strip()[1:3]
    cut = await collect(engine, replace(query, id=f"{query.id}-2", sampling=Sampling(stop=("never said", stop))))
    assert text(cut) == whole[: whole.index(stop)]
    assert cut[-1].finish_reason == "stop"


async def test_a_seed_makes_the_same_draws_again(engine: Engine, query: Query, adapter: Adapter) -> None:
    drawn = Sampling(temperature=2.0, top_p=0.99, seed=7, max_tokens=12)
    asked = [replace(query, id=f"{query.id}-{n}", sampling=drawn) for n in range(4)]
    assert len({text(await collect(engine, each)) for each in asked}) == 1


async def test_a_share_of_nothing_draws_the_likeliest(engine: Engine, query: Query) -> None:
    greedy = await collect(engine, query)
    drawn = Sampling(temperature=1.0, top_p=1e-6)
    assert text(await collect(engine, replace(query, id=f"{query.id}-2", sampling=drawn))) == text(greedy)


async def test_tokens_are_told_with_their_probabilities_and_the_likeliest_where_asked(
    engine: Engine, query: Query
) -> None:
    plain = await collect(engine, query)
    assert all(delta.told == () for delta in plain)
    for count in (0, 3):
        asked = replace(query, id=f"{query.id}-{count}", sampling=Sampling(logprobs=count))
        deltas = await collect(engine, asked)
        told = [token for delta in deltas for token in delta.told]
        assert "".join(token.text for token in told).strip() == text(plain).strip()
        assert deltas[-1].logprob - 0.02 <= sum(token.logprob for token in told) + 0.02
        assert sum(token.logprob for token in told) <= 0
        for token in told:
            assert len(token.likeliest) == count
            assert [logprob for _, logprob in token.likeliest] == sorted(
                (logprob for _, logprob in token.likeliest), reverse=True
            )
            assert not count or token.likeliest[0] == (token.text, token.logprob)


SCHEMA = {
    "type": "object",
    "properties": {
        "colour": {"$ref": "#/$defs/Colour"},
        "round": {"type": "boolean"},
        "sides": {"anyOf": [{"enum": [3, 4]}, {"type": "null"}]},
    },
    "required": ["colour", "round", "sides"],
    "additionalProperties": False,
    "$defs": {"Colour": {"enum": ["red", "blue"], "type": "string"}},
}


async def test_an_answer_held_to_a_schema_is_json_that_fits_it(engine: Engine, query: Query, adapter: Adapter) -> None:
    wanted = Sampling(json_schema=json.dumps(SCHEMA), temperature=1.0)
    asked = [replace(query, id=f"{query.id}-{n}", sampling=wanted, adapter=(None, adapter)[n % 2]) for n in range(6)]
    free = await collect(engine, query)
    for deltas in await asyncio.gather(*[collect(engine, each) for each in asked]):
        found = json.loads(text(deltas))
        assert found.keys() == {"colour", "round", "sides"}
        assert found["colour"] in ("red", "blue")
        assert found["round"] in (True, False)
        assert found["sides"] in (3, 4, None)
        assert deltas[-1].finish_reason == "stop"
    assert text(await collect(engine, replace(query, id=f"{query.id}-free"))) == text(free)


@pytest.mark.parametrize("schema", [{"type": "colour"}, {"$ref": "#/$defs/Nowhere", "$defs": {}}])
async def test_a_schema_that_no_answer_can_be_held_to_is_refused_and_others_are_answered(
    engine: Engine, query: Query, schema: dict[str, Any]
) -> None:
    with pytest.raises(FormatRefused, match="response_format"):
        await collect(engine, replace(query, sampling=Sampling(json_schema=json.dumps(schema))))
    assert (await collect(engine, replace(query, id=f"{query.id}-2")))[-1].finish_reason == "stop"


async def test_many_at_once_answer_as_one_alone(engine: Engine, query: Query) -> None:
    alone = await collect(engine, query)
    together = await asyncio.gather(*[collect(engine, replace(query, id=f"{query.id}-{n}")) for n in range(16)])
    assert {"".join(delta.text for delta in deltas) for deltas in together} == {"".join(delta.text for delta in alone)}


@pytest.fixture
def choosing(query: Query, prompt: Prompt) -> Query:
    """The query with three answers to choose from, one of which begins as another does."""
    answers = [prompt.encode_answer("what color is the shape?", answer) for answer in ("red", "blue", "blue circle")]
    return replace(query, choices=tuple(answers))


async def score(engine: Engine, query: Query) -> tuple[float, ...]:
    return (await engine.score(query)).logprobs


async def test_each_choice_has_its_own_probability_wherever_it_stands(
    engine: Engine, choosing: Query, adapter: Adapter
) -> None:
    there = await engine.score(choosing)
    assert len(there.logprobs) == 3
    assert 0 < sum(map(math.exp, there.logprobs)) <= 1.001
    assert there.prompt_tokens == (await collect(engine, choosing))[-1].prompt_tokens
    back = await score(engine, replace(choosing, id=f"{choosing.id}-2", choices=choosing.choices[::-1]))
    assert back[::-1] == pytest.approx(there.logprobs, abs=0.02)
    alone = await score(engine, replace(choosing, id=f"{choosing.id}-3", choices=choosing.choices[1:2]))
    assert alone == pytest.approx(there.logprobs[1:2], abs=0.02)
    adapted = await score(engine, replace(choosing, id=f"{choosing.id}-4", adapter=adapter))
    assert adapted != pytest.approx(there.logprobs, abs=0.02)


async def test_choices_scored_among_other_work_score_as_alone(engine: Engine, choosing: Query) -> None:
    alone = await score(engine, choosing)
    works = [
        score(engine, replace(choosing, id=f"{choosing.id}-{n}"))
        if n % 2
        else collect(engine, replace(choosing, id=f"other-{n}"))
        for n in range(12)
    ]
    for number, found in enumerate(await asyncio.gather(*works)):
        if number % 2:
            assert found == pytest.approx(alone, abs=0.02)


async def test_the_likeliest_next_tokens_have_the_probabilities_that_choices_are_weighed_by(
    engine: Engine, query: Query, adapter: Adapter
) -> None:
    for number, who in enumerate((None, adapter)):
        asked = replace(query, id=f"{query.id}-{number}", adapter=who)
        (start,) = (await engine.extend(asked, [()], 4)).after
        said = [(), *((token,) for token in start)][:4]
        found = await engine.extend(asked, said, 4)
        assert found.prompt_tokens == (await collect(engine, asked))[-1].prompt_tokens
        for token in found.after[0].keys() & start.keys():
            assert found.after[0][token] == pytest.approx(start[token], abs=0.05)
        for beginning, after in zip(said, found.after, strict=True):
            assert len(after) >= 4
            assert sum(map(math.exp, after.values())) <= 1.001
            one = next(iter(after))
            behind = start[beginning[0]] if beginning else 0.0
            whole = await score(engine, replace(asked, choices=((*beginning, one),)))
            assert whole == pytest.approx((behind + after[one],), abs=0.05)


async def test_beams_and_told_tokens_beside_choices_are_as_alone(
    engine: Engine, choosing: Query, query: Query, prompt: Prompt
) -> None:
    """In vLLM's V1 sampler one row that asks for tokens by name takes the likeliest from all other rows of its step."""
    said = [(), choosing.choices[1][:1], choosing.choices[2][:2]]
    telling = replace(query, sampling=Sampling(logprobs=5))
    alone = await engine.extend(replace(query, id="alone"), said, 8)
    weighed = await score(engine, choosing)
    told = [token for delta in await collect(engine, replace(telling, id="alone-told")) for token in delta.told]
    works = [
        work
        for n in range(6)
        for work in (
            engine.extend(replace(query, id=f"beams-{n}"), said, 8),
            score(engine, replace(choosing, id=f"choices-{n}")),
            collect(engine, replace(telling, id=f"told-{n}")),
        )
    ]
    found: list[Any] = await asyncio.gather(*works)
    for number in range(6):
        together, choices, deltas = found[3 * number : 3 * number + 3]
        for there, here in zip(alone.after, together.after, strict=True):
            assert len(here) >= 8
            # Two tokens as likely as each other may change places.
            assert sorted(here.values())[-8:] == pytest.approx(sorted(there.values())[-8:], abs=0.05)
        assert choices == pytest.approx(weighed, abs=0.05)
        assert [len(token.likeliest) for delta in deltas for token in delta.told] == [5] * len(told)


async def test_extending_fails_as_answering_does(engine: Engine, query: Query) -> None:
    with pytest.raises(PromptTooLong):
        await engine.extend(replace(query, sampling=Sampling(max_tokens=100_000)), [()], 2)
    with pytest.raises(EngineUnavailable, match="not loaded"):
        await engine.extend(replace(query, adapter=Adapter("stranger", "0" * 64, Path("nowhere"))), [()], 2)
    await engine.extend(replace(query, id=f"{query.id}-2"), [()], 2)


@pytest.mark.engine
async def test_one_beam_on_vllm_is_greedy_and_four_are_as_good(real: Running, query: Query, prompt: Prompt) -> None:
    """As good by log-probability per token, which is what beams are compared by."""
    await real.engine.load(Store(ADAPTERS).stable("shapes"))
    whose = (None, Store(ADAPTERS).stable("shapes"))
    questions = ("what color is the shape?", "what is in the image?", "is there a circle?")
    for number, (question, who) in enumerate(itertools.product(questions, whose)):
        asked = replace(
            query, id=f"{query.id}-{number}", token_ids=prompt.encode(question), adapter=who, sampling=Sampling(0.0, 12)
        )
        deltas = await collect(real.engine, asked)
        greedy, tokens = "".join(delta.text for delta in deltas).strip(), sum(delta.tokens for delta in deltas)
        one, four = [
            await beams.search(partial(real.engine.extend, asked), width, 12, prompt.end_token_id) for width in (1, 4)
        ]
        assert prompt.decode(one.token_ids) == greedy
        assert one.logprob == pytest.approx(deltas[-1].logprob, abs=0.05)
        assert len(one.token_ids) == tokens
        assert four.quality >= one.quality - 0.02


async def test_scoring_fails_as_answering_does(engine: Engine, choosing: Query) -> None:
    with pytest.raises(PromptTooLong):
        await engine.score(replace(choosing, choices=(choosing.choices[0], choosing.choices[0] * 1000)))
    with pytest.raises(EngineUnavailable, match="not loaded"):
        await engine.score(replace(choosing, adapter=Adapter("stranger", "0" * 64, Path("nowhere"))))
    await engine.score(replace(choosing, id=f"{choosing.id}-2"))


@pytest.mark.engine
async def test_vllm_gives_a_choice_the_probability_it_gave_the_answer(
    real: Running, query: Query, prompt: Prompt
) -> None:
    shapes = Store(ADAPTERS).stable("shapes")
    await real.engine.load(shapes)
    for number, question in enumerate(
        ("what color is the shape?", "what shape is in the image?", "is there a circle?")
    ):
        asked = replace(query, id=f"{query.id}-{number}", token_ids=prompt.encode(question), adapter=shapes)
        deltas = await collect(real.engine, asked)
        answer = "".join(delta.text for delta in deltas)
        again = replace(asked, id=f"{asked.id}-again", choices=(prompt.encode_answer(question, answer),))
        assert await score(real.engine, again) == pytest.approx((deltas[-1].logprob,), abs=0.05)


@pytest.mark.engine
async def test_of_another_question_about_a_picture_vllm_computes_what_is_new(
    real: Running, query: Query, prompt: Prompt
) -> None:
    """All of the picture's 64 tokens but those of a block of 32 that is not full."""
    seen = picture(png("navy", (48, 64)), Preparation.of_checkpoint(CHECKPOINT))
    for number, question in enumerate(("what color is the shape?", "is there a circle?")):
        before = found_in_cache()
        await collect(real.engine, Query(f"{query.id}-{number}", prompt.encode(question), (seen,)))
    assert found_in_cache() - before >= 32


def found_in_cache() -> float:
    """Tokens of prompts that vLLM found in its cache so far."""
    return sum(
        sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.name == "vllm:prefix_cache_hits_total"
    )


async def test_what_is_remembered_apart_is_answered_alike(engine: Engine, query: Query) -> None:
    scopes = ("", "one", "two", "one")
    queries = [replace(query, id=f"{query.id}-{n}", scope=scope) for n, scope in enumerate(scopes)]
    answers = ["".join(delta.text for delta in await collect(engine, each)) for each in queries]
    assert len(set(answers)) == 1


async def test_closing_early_leaves_the_engine_well(engine: Engine, query: Query) -> None:
    async with aclosing(engine.generate(query)) as deltas:
        async for _ in deltas:
            break
    await engine.check()
    assert (await collect(engine, replace(query, id=f"{query.id}-2")))[-1].finish_reason == "stop"


@pytest.mark.parametrize("wrap", [lambda engine: engine, supervised], ids=["fake", "supervised"])
async def test_a_dead_engine_is_unavailable_until_started_again_and_then_holds_no_adapter(
    wrap: Callable[[FakeEngine], Engine], query: Query
) -> None:
    mortal = FakeEngine()
    engine, adapter = wrap(mortal), Store(ADAPTERS).stable("digits")
    await engine.start()
    await engine.load(adapter)
    mortal.kill()
    assert await unavailable(engine, replace(query, adapter=adapter), adapter)
    await engine.stop()
    assert await unavailable(engine, query, adapter)
    await engine.start()
    await engine.check()
    with pytest.raises(EngineUnavailable, match="not loaded"):
        await collect(engine, replace(query, adapter=adapter))
    await engine.load(adapter)
    assert (await collect(engine, replace(query, adapter=adapter)))[-1].finish_reason == "stop"
    await engine.stop()


ENGINES = {
    "fake": FakeEngine,
    "supervised": lambda: supervised(FakeEngine()),
    "vllm": lambda: VLLMEngine(CHECKPOINT, Settings()),
}


@pytest.mark.parametrize("make", ENGINES.values(), ids=ENGINES)
async def test_an_engine_not_started_is_unavailable(make: Callable[[], Engine], query: Query, tmp_path: Path) -> None:
    engine = make()
    assert await unavailable(engine, query, Adapter("any", "3" * 64, tmp_path))


async def unavailable(engine: Engine, query: Query, adapter: Adapter) -> bool:
    with pytest.raises(EngineUnavailable):
        await engine.check()
    with pytest.raises(EngineUnavailable):
        await collect(engine, query)
    with pytest.raises(EngineUnavailable):
        await engine.load(adapter)
    with pytest.raises(EngineUnavailable):
        await engine.unload(adapter)
    with pytest.raises(EngineUnavailable):
        await engine.score(replace(query, choices=((1, 2), (2, 2))))
    with pytest.raises(EngineUnavailable):
        await engine.extend(query, [()], 2)
    return True
