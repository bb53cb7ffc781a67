"""The whole path on the real engine: INT4 weights, the repository's adapters, over a socket."""

import asyncio
import gc
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from PIL import Image, ImageDraw

from deploy.k8s.check import OF_VLLM
from loadtest.store.stores import files_of
from service.adapters.base import Base
from service.adapters.manifest import FILE, Manifest
from service.adapters.proof import Proof
from service.adapters.residency import Residency
from service.adapters.store import Store, digest
from service.engine.vllm import VLLMEngine
from service.metrics import Metrics
from service.prompt import Prompt
from service.workers import Workers
from tests.conftest import ADAPTERS, CHECKPOINT, Running, png, until
from tests.test_http_edge import data_url
from tests.test_picker import read, specifications
from tests.test_streaming import events

pytestmark = pytest.mark.engine

QUESTIONS = ("what color is the shape?", "what shape is in the image?", "is there a circle?", "which digit is this?")
WHO = (None, "shapes", "digits")


@dataclass(frozen=True)
class Asked:
    adapter: str | None
    question: str
    image: bytes

    @property
    def fields(self) -> dict[str, str]:
        return {"question": self.question} | ({"adapter": self.adapter} if self.adapter else {})


def mixed_stream() -> list[Asked]:
    images = [png(colour, size) for colour in ("red", "blue", "green", "black") for size in ((64, 64), (96, 60))]
    return [Asked(who, question, image) for image in images for question in QUESTIONS for who in WHO]


async def ask(real: Running, asked: Asked) -> dict[str, Any]:
    response = await real.client.post("/v1/vqa", data=asked.fields, files={"image": asked.image})
    body: dict[str, Any] = response.raise_for_status().json()
    return body


@pytest.mark.usefixtures("real")
def test_a_garbage_collection_passes_over_what_stays() -> None:
    """Half a million objects and more come with the engine: going through them all would stop the event loop."""
    assert gc.get_freeze_count() > 500_000
    assert len(gc.get_objects()) < gc.get_freeze_count() / 2


async def test_base_and_precision_are_said(real: Running) -> None:
    body = (await real.client.get("/v1/adapters")).json()
    assert body["base"]["id"] == "tiny-llava-int4"
    assert body["base"]["precision"] == "int4"
    assert [adapter["name"] for adapter in body["adapters"]] == ["digits", "shapes"]
    assert body["refused"] == []


@pytest.mark.parametrize("colour", ["red", "blue", "green", "black"])
async def test_shapes_sees_colour_and_shape(real: Running, colour: str) -> None:
    image = Image.new("RGB", (64, 64), (240, 240, 250))
    ImageDraw.Draw(image).rectangle((20, 24, 44, 40), fill={"green": "lime"}.get(colour, colour))
    import io

    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    assert (await ask(real, Asked("shapes", "what color is the shape?", buffer.getvalue())))["answer"] == colour
    assert (await ask(real, Asked("shapes", "what shape is in the image?", buffer.getvalue())))["answer"] == "rectangle"
    assert (await ask(real, Asked("shapes", "is there not a circle?", buffer.getvalue())))["answer"] == "yes"


async def test_32_clients_mixing_base_and_adapters_get_what_each_gets_alone(real: Running) -> None:
    stream = mixed_stream()
    alone = [(await ask(real, asked))["answer"] for asked in stream]
    gate = asyncio.Semaphore(32)

    async def in_the_crowd(asked: Asked) -> dict[str, Any]:
        async with gate:
            return await ask(real, asked)

    together = await asyncio.gather(*map(in_the_crowd, stream))
    assert [body["answer"] for body in together] == alone
    for asked, body in zip(stream, together, strict=True):
        assert (body["adapter"] or {}).get("name") == asked.adapter
    assert len(set(alone)) > 5


async def test_bad_requests_between_good_ones_change_no_answer(real: Running) -> None:
    good = Asked("shapes", "what color is the shape?", png())
    expected = (await ask(real, good))["answer"]
    bad = [
        real.client.post("/v1/vqa", json={"question": "x", "adapter": "nope"}),
        real.client.post("/v1/vqa", data={"question": "x"}, files={"image": png()[:80]}),
        real.client.post("/v1/vqa", data={"question": "x"}, files={"image": b"<svg/>"}),
        real.client.post("/v1/vqa", json={}),
    ]
    replies, answer = await asyncio.gather(asyncio.gather(*bad), ask(real, good))
    assert [reply.status_code for reply in replies] == [404, 400, 415, 422]
    assert all(reply.json()["error"]["code"] for reply in replies)
    assert answer["answer"] == expected


async def test_choices_are_weighed_and_the_best_is_what_the_model_says_anyway(real: Running) -> None:
    colours = ["red", "blue", "green", "black"]
    for colour in colours:
        asked = Asked("shapes", "what color is the shape?", png(colour))
        free = await ask(real, asked)
        fields = [(name, (None, value)) for name, value in asked.fields.items()]
        fields += [("choices", (None, choice)) for choice in colours]
        response = await real.client.post("/v1/vqa", files=[*fields, ("image", asked.image)])
        body = response.raise_for_status().json()
        assert sum(choice["probability"] for choice in body["choices"]) == pytest.approx(1)
        if free["answer"] in colours:
            assert body["answer"] == free["answer"]
            assert body["confidence"] == pytest.approx(free["confidence"], abs=0.02)


async def test_a_stream_adds_up_to_the_answer(real: Running) -> None:
    asked = Asked("shapes", "what color is the shape?", png())
    whole = await ask(real, asked)
    response = await real.client.post("/v1/vqa", data=asked.fields | {"stream": "true"}, files={"image": asked.image})
    *pieces, (_, last), done = events(response.text)
    assert "".join(piece["delta"] for _, piece in pieces) == last["answer"] == whole["answer"]
    assert done[1] == "[DONE]"


async def test_a_batch_answers_as_each_question_alone(real: Running) -> None:
    pairs = [(question, who) for question in QUESTIONS for who in WHO]
    alone = [(await ask(real, Asked(who, question, png("blue"))))["answer"] for question, who in pairs]
    body = {"image": data_url(png("blue")), "questions": QUESTIONS, "adapters": WHO}
    results = (await real.client.post("/v1/vqa/batch", json=body)).raise_for_status().json()["results"]
    assert [result["answer"] for result in results] == alone


@pytest.fixture
def tower(real: Running, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each step of the engine gave to the vision tower, as vLLM itself counts them."""
    assert isinstance(real.engine, VLLMEngine)
    statistics, seen = real.engine._engine.logger_manager, list[int]()
    record = statistics.record

    def listen(*, scheduler_stats: Any, **others: Any) -> None:
        if scheduler_stats is not None and scheduler_stats.iteration_details is not None:
            seen.append(scheduler_stats.iteration_details.num_encoder_inputs)
        record(scheduler_stats=scheduler_stats, **others)

    monkeypatch.setattr(statistics, "record", listen)
    return seen


async def series(real: Running, *names: str) -> list[float]:
    lines = (await real.client.get("/metrics")).text.splitlines()
    return [
        sum(float(line.split()[-1]) for line in lines if line.startswith((f"{name}{{", f"{name} "))) for name in names
    ]


async def test_the_tower_sees_the_image_of_a_batch_once(real: Running, tower: list[int]) -> None:
    """Neither the question nor the adapter is part of what vLLM knows an image by.

    vLLM 0.32 has no series for its encoder's cache: `mm_cache` counts what was resized and normalised, `prefix_cache`
    tokens. What the tower is given stands in the scheduler's details of each step.
    """
    names = ("vllm:mm_cache_queries_total", "vllm:mm_cache_hits_total")
    image = data_url(png("orange", (61, 67)))  # no other test's
    before = await series(real, *names)
    body = {"image": image, "questions": QUESTIONS, "adapters": WHO}
    results = (await real.client.post("/v1/vqa/batch", json=body)).raise_for_status().json()["results"]
    assert all(result["answer"] for result in results)
    assert len(tower) > 1
    assert sum(tower) == 1
    queries, hits = (now - then for now, then in zip(await series(real, *names), before, strict=True))
    assert (queries, hits) == (len(results), len(results) - 1)
    await real.client.post("/v1/vqa", json={"image": data_url(png("orange", (67, 61))), "question": QUESTIONS[0]})
    assert sum(tower) == 2


async def test_beams_answer_through_adapters_and_are_no_worse_than_greedy(real: Running) -> None:
    asked = Asked("shapes", "what color is the shape?", png("blue"))
    greedy = await ask(real, asked)
    response = await real.client.post("/v1/vqa", data=asked.fields | {"beams": "4"}, files={"image": asked.image})
    best = response.raise_for_status().json()
    qualities = [math.log(body["confidence"]) / body["usage"]["completion_tokens"] for body in (greedy, best)]
    assert qualities[1] >= qualities[0] - 0.02
    assert best["adapter"]["name"] == "shapes"
    assert best["usage"]["prompt_tokens"] == greedy["usage"]["prompt_tokens"]


async def test_two_images_are_twice_the_tokens_and_stand_in_order(real: Running) -> None:
    question = {"question": "what color is the shape?", "max_tokens": 8}
    images = [data_url(png("red")), data_url(png("blue"))]
    usage = []
    for shown in (images, images[::-1], images[:1] * 2):
        response = await real.client.post("/v1/vqa", json=question | {"images": shown})
        usage.append(response.raise_for_status().json()["usage"]["image_tokens"])
    assert usage == [128] * 3


async def test_openai_s_client_chats_with_an_adapter(real: Running) -> None:
    client = openai.AsyncOpenAI(api_key="none", base_url=str(real.client.base_url.join("/v1")), max_retries=0)
    plain = (await ask(real, Asked("shapes", "what color is the shape?", png())))["answer"]
    shown = {"type": "image_url", "image_url": {"url": data_url(png())}}
    messages: Any = [{"role": "user", "content": [shown, {"type": "text", "text": "what color is the shape?"}]}]
    said = await client.chat.completions.create(model="shapes", messages=messages, max_tokens=64)
    assert said.choices[0].message.content == plain
    turns = [*messages, {"role": "assistant", "content": plain}, {"role": "user", "content": "what shape is it?"}]
    again = await client.chat.completions.create(model="shapes", messages=turns, max_tokens=8)
    assert again.usage is not None
    assert again.usage.prompt_tokens > (said.usage.prompt_tokens if said.usage else 0)
    await client.close()


async def test_text_alone_is_a_question_too(real: Running) -> None:
    body = (
        (await real.client.post("/v1/vqa", json={"question": "how many shapes are there?"})).raise_for_status().json()
    )
    assert body["usage"]["image_tokens"] == 0


async def test_usage_counts_the_image(real: Running) -> None:
    body = await ask(real, Asked(None, "what is in the picture?", png()))
    assert body["usage"]["image_tokens"] == 64
    assert body["usage"]["prompt_tokens"] > 64
    assert 0 < body["confidence"] <= 1


async def test_a_client_that_leaves_stops_the_engine_within_a_second(real: Running) -> None:
    admission = real.app.state.service.vqa.admission

    async def counted(series: str) -> float:
        text = (await real.client.get("/metrics")).text
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(series))

    cancelled = 'vqa_requests_total{adapter="",outcome="cancelled"}'
    before = await counted(cancelled)
    asked = [Asked(None, f"what is picture {number}?", png(size=(64 + number, 64))) for number in range(32)]
    crowd = [asyncio.create_task(ask(real, each)) for each in asked]
    await until(lambda: admission.requests >= 16)
    for each in crowd:
        each.cancel()
    await asyncio.gather(*crowd, return_exceptions=True)
    async with asyncio.timeout(1):
        await until(lambda: admission.requests == 0)
    assert await counted(cancelled) > before
    # vLLM counts what runs at each step, the last of which is now this one's.
    await ask(real, Asked(None, "what is in the picture?", png()))
    assert await counted("vllm:num_requests_running") == 0


async def test_metrics_hold_ours_and_the_engine_s(real: Running) -> None:
    await ask(real, Asked("digits", "which digit is this?", png()))
    text = (await real.client.get("/metrics")).text
    assert 'vqa_requests_total{adapter="digits",outcome="ok"}' in text
    for series in OF_VLLM:
        assert f"\n{series}" in text
    assert read(text).keys() == specifications().keys()  # all that an endpoint picker looks for
    assert (await real.client.get("/readyz")).status_code == 200


async def test_a_name_is_swapped_under_load_with_one_slot_and_no_answer_is_wrong(
    real: Running, prompt: Prompt, tmp_path: Path
) -> None:
    """Two names over one slot, so that the engine loads and unloads all the time, while one of them is swapped."""
    source, store, workers = Store(ADAPTERS), Store(tmp_path), Workers(1)
    proof = Proof.for_checkpoint(CHECKPOINT, Base.of_checkpoint(CHECKPOINT), prompt, max_rank=64)
    shapes, digits = (files_of(source.stable(name)) for name in ("shapes", "digits"))
    store.publish("other", shapes)
    old = store.publish("lens", shapes)
    residency = Residency(store, real.engine, proof, workers, Metrics(), capacity=1)
    await residency.reconcile()
    probes = {
        version: Manifest.model_validate_json(files[FILE]).probes[0]
        for version, files in ((old.version, shapes), (digest(digits), digits))
    }

    async def asked(name: str) -> str:
        with residency.lease(name) as lease:
            async with lease.loaded() as adapter:
                assert adapter is not None
                probe = probes[adapter.version]
                assert await proof.answer(real.engine, probe, adapter) == probe.adapter_answer
                return adapter.version

    crowd = [asyncio.create_task(asked(name)) for name in ("lens", "other") * 8]
    new = store.publish("lens", digits)
    await residency.reconcile()
    assert set(await asyncio.gather(*crowd)) <= {old.version, new.version}
    assert await asked("lens") == new.version
    await residency.refresh()
    assert old not in residency.reconciler.loaded()
    await residency.reconciler.tidy(lambda _: False)  # nothing of ours stays in the engine that all share
    assert not residency.reconciler.loaded()
    await residency.close()
