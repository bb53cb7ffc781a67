"""A batch: many questions about the same images, which are made into pictures once; each ends in its own way."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.engine.fake import FakeEngine
from service.images import picture
from service.settings import Settings
from tests.conftest import Running, png, serving, until
from tests.origins import answer, origin
from tests.test_auth import bearer, write
from tests.test_http_edge import QUESTION, ask, assert_error, data_url
from tests.test_streaming import events


async def batch(running: Running, *questions: Any, **fields: Any) -> httpx.Response:
    body = {"image": data_url(png()), "questions": questions} | fields
    return await running.client.post("/v1/vqa/batch", json=body)


def outcomes(running: Running) -> Counter[str]:
    """How many questions came to which end."""
    found = Counter[str]()
    for family in running.app.state.service.metrics.requests.collect():
        for sample in family.samples:
            if sample.name == "vqa_requests_total":
                found[sample.labels["outcome"]] += int(sample.value)
    return found


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of every file that was decoded."""
    sizes: list[int] = []

    def counting(data: bytes, *rest: Any) -> Any:
        sizes.append(len(data))
        return picture(data, *rest)

    monkeypatch.setattr("service.pictures.picture", counting)
    return sizes


async def test_each_question_is_answered_as_it_would_be_alone(fake: Running, decoded: list[int]) -> None:
    questions: list[dict[str, Any]] = [
        {"question": QUESTION, "adapter": "digits"},
        {"question": QUESTION, "model": "shapes", "max_tokens": 1},
        {"question": "is it red?", "choices": ["yes", "no"]},
        {"question": "where?"},
    ]
    alone = [(await ask(fake, **question)).json() for question in questions]
    decoded.clear()
    body = (await batch(fake, *questions)).raise_for_status().json()
    assert len(decoded) == 1
    assert len({result["id"] for result in body["results"]}) == 4
    for one, other in zip(body["results"], alone, strict=True):
        for part in ("answer", "adapter", "choices", "finish_reason", "usage"):
            assert one[part] == other[part]


async def test_a_streamed_batch_gives_each_result_as_soon_as_it_is_there(fake: Running) -> None:
    questions = [QUESTION, {"question": "where?", "adapter": "nothere"}, {"question": "how many?", "max_tokens": 1}]
    whole = (await batch(fake, *questions)).raise_for_status().json()["results"]
    response = (await batch(fake, *questions, stream=True)).raise_for_status()
    assert response.headers["content-type"].startswith("text/event-stream")
    *told, done = [data for _, data in events(response.text)]
    assert done == "[DONE]"
    assert sorted(event["index"] for event in told) == [0, 1, 2]
    assert told[0]["index"] == 1  # who is refused waits for nobody
    for event in told:
        one, other = event["result"], whole[event["index"]]
        assert one.get("answer") == other.get("answer")
        assert one.get("error", {}).get("code") == other.get("error", {}).get("code")


async def test_who_hangs_up_on_a_streamed_batch_ends_all_of_it(socket: Running) -> None:
    engine = socket.engine
    assert isinstance(engine, FakeEngine)
    engine.step_s = 60
    body = {"questions": ["slow?"] * 4, "stream": True}  # there is one slot and one place to wait
    async with socket.client.stream("POST", "/v1/vqa/batch", json=body) as response:
        async for line in response.aiter_lines():
            assert json.loads(line.removeprefix("data: "))["result"]["error"]["code"] == "overloaded"
            await until(lambda: engine.running == 1)
            break
    await until(lambda: engine.running == 0)
    in_flight = socket.app.state.service.metrics.in_flight
    await until(lambda: in_flight.collect()[0].samples[0].value == 0)


async def test_every_question_through_every_adapter(fake: Running) -> None:
    body = (await batch(fake, QUESTION, "where?", adapters=["digits", None])).raise_for_status().json()
    assert [(result["adapter"] or {}).get("name") for result in body["results"]] == ["digits", None] * 2
    assert len({result["answer"] for result in body["results"]}) == 4


async def test_a_question_that_fails_fails_alone(fake: Running) -> None:
    questions = [QUESTION, {"question": QUESTION, "adapter": "nope"}, {"question": "what is it? " * 1000}, "  "]
    counted = outcomes(fake)
    response = await batch(fake, *questions)
    assert response.status_code == 200
    good, *bad = response.raise_for_status().json()["results"]
    assert good["answer"]
    assert [result["error"]["code"] for result in bad] == ["adapter_not_found", "prompt_too_long", "invalid_request"]
    assert {result["error"]["request_id"] for result in bad} == {response.headers["x-request-id"]}
    assert outcomes(fake) - counted == Counter(["ok", *(result["error"]["code"] for result in bad)])


async def test_the_document_says_that_questions_fail_within_a_200(fake: Running) -> None:
    route = (await fake.client.get("/openapi.json")).json()["paths"]["/v1/vqa/batch"]["post"]
    assert "200 also where some or all of them failed" in route["responses"]["200"]["description"]
    assert "look for `error` in each result" in route["description"]


async def test_a_broken_image_is_every_question_s_error_and_is_fetched_once(tmp_path: Path) -> None:
    async with origin() as web, serving(Settings(adapters=tmp_path, image_url_private=True), FakeEngine()) as running:
        web.paths = {"/page": answer(200, b"<html></html>")}
        body = (await batch(running, *[QUESTION] * 5, image=web.url("/page"))).json()
        assert [result["error"]["code"] for result in body["results"]] == ["image_type_refused"] * 5
        assert web.hits == 1
        assert running.app.state.service.vqa.admission.requests == 0


async def test_each_question_counts_for_admission(fake_adapters: Path) -> None:
    engine = FakeEngine()
    async with serving(Settings(adapters=fake_adapters, in_flight=2, waiting=1), engine) as small:
        engine.step_s = 0.01
        results = (await batch(small, *[QUESTION] * 5)).json()["results"]
        codes = [result.get("error", {}).get("code") for result in results]
        assert codes == [None] * 3 + ["overloaded"] * 2
        metrics = (await small.client.get("/metrics")).text
        assert 'vqa_requests_total{adapter="",outcome="ok"} 3.0' in metrics


async def test_the_questions_of_a_batch_wait_for_one_another_within_their_tenants_concurrency(
    fake_adapters: Path, tmp_path: Path
) -> None:
    engine, keys = FakeEngine(), write(tmp_path / "keys.json", {"acme": {"concurrency": 2}})
    async with serving(Settings(adapters=fake_adapters, keys=keys), engine) as running:
        engine.step_s, body = 0.005, {"questions": [QUESTION] * 9}
        asking = asyncio.create_task(running.client.post("/v1/vqa/batch", json=body, headers=bearer("acme")))
        await until(lambda: engine.running > 0)
        most = 0
        while not asking.done():
            most = max(most, engine.running)
            await asyncio.sleep(0.001)
        assert [result.get("error") for result in (await asking).json()["results"]] == [None] * 9
        assert most == 2


async def test_a_batch_counts_as_its_questions_against_a_rate(fake_adapters: Path, tmp_path: Path) -> None:
    keys = write(tmp_path / "keys.json", {"acme": {"rate": "10/hour"}})
    async with serving(Settings(adapters=fake_adapters, keys=keys), FakeEngine()) as running:

        async def ask_many(count: int) -> httpx.Response:
            body = {"questions": [QUESTION] * count}
            return await running.client.post("/v1/vqa/batch", json=body, headers=bearer("acme"))

        (await ask_many(6)).raise_for_status()
        assert_error(await ask_many(40), 429, "limit_reached")
        refused = await ask_many(4)
        assert_error(refused, 429, "limit_reached")
        assert int(refused.headers["retry-after"]) >= 1
        (await ask_many(1)).raise_for_status()


async def test_a_deadline_is_each_question_s(fake_adapters: Path) -> None:
    engine = FakeEngine()
    async with serving(Settings(adapters=fake_adapters), engine) as slow:
        engine.step_s = 5.0
        results = (await batch(slow, QUESTION, "where?", deadline_s=0.05)).json()["results"]
        assert [result["error"]["code"] for result in results] == ["deadline_exceeded"] * 2
        assert engine.running == 0


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"questions": []}, "questions"),
        ({"questions": [7]}, "questions"),
        ({"questions": [{"question": QUESTION, "typo": 1}]}, "typo"),
        ({"questions": [{"question": QUESTION, "adapter": "digits"}], "adapters": ["shapes"]}, "one place"),
        ({"questions": [QUESTION] * 33, "adapters": ["digits", None]}, "66 questions"),
        ({"adapters": []}, "adapters"),
    ],
)
async def test_a_batch_that_means_nothing_is_422(fake: Running, fields: dict[str, Any], word: str) -> None:
    assert word in assert_error(await batch(fake, QUESTION, **fields), 422, "invalid_request")


async def test_a_client_that_leaves_ends_every_question(socket: Running) -> None:
    engine, admission = socket.engine, socket.app.state.service.vqa.admission
    assert isinstance(engine, FakeEngine)
    engine.step_s = 5.0
    asking = asyncio.create_task(batch(socket, QUESTION, "where?"))
    await until(lambda: engine.running == 1 and admission.requests == 2)
    asking.cancel()
    await until(lambda: engine.running == 0 and admission.requests == 0)
