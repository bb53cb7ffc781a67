"""OpenAI's own client asks: an adapter is a model, a picture is an image_url, an error is one of its classes."""

from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from service.engine.fake import FakeEngine
from service.settings import Settings
from service.types import ANYONE
from tests.conftest import Running, png, serving
from tests.origins import answer, origin
from tests.test_auth import write
from tests.test_http_edge import QUESTION, ask, data_url
from tests.test_streaming import Dying

BASE = "tiny-llava-int4"


def over(running: Running, key: str = "none") -> openai.AsyncOpenAI:
    """The official client, which would try twice more by default."""
    http: Any = running.client  # openai names httpx's successor in its types, and takes either
    return openai.AsyncOpenAI(api_key=key, base_url="http://test/v1", http_client=http, max_retries=0)


@pytest.fixture
def client(fake: Running) -> openai.AsyncOpenAI:
    return over(fake)


def user(text: str, *images: str) -> ChatCompletionMessageParam:
    urls: Any = [{"type": "image_url", "image_url": {"url": image}} for image in images]
    return {"role": "user", "content": [*urls, {"type": "text", "text": text}]}


async def test_a_chat_with_an_image_is_the_question_s_answer(fake: Running, client: openai.AsyncOpenAI) -> None:
    plain = (await ask(fake, adapter="digits")).json()
    said = await client.chat.completions.create(model="digits", messages=[user(QUESTION, data_url(png()))])
    assert said.choices[0].message.content == plain["answer"]
    assert said.choices[0].finish_reason == "stop"
    assert said.system_fingerprint == plain["adapter"]["version"]
    assert said.usage is not None
    assert said.usage.total_tokens == plain["usage"]["prompt_tokens"] + plain["usage"]["completion_tokens"]
    assert 'vqa_requests_total{adapter="digits",outcome="ok"} 2.0' in (await fake.client.get("/metrics")).text


async def test_the_base_goes_by_its_own_name_and_text_alone_is_enough(
    fake: Running, client: openai.AsyncOpenAI
) -> None:
    plain = (await ask(fake, image=None)).json()["answer"]
    said = await client.chat.completions.create(model=BASE, messages=[{"role": "user", "content": QUESTION}])
    assert said.choices[0].message.content == plain
    assert said.system_fingerprint is None


async def test_max_tokens_goes_by_both_names(client: openai.AsyncOpenAI) -> None:
    messages = [user(QUESTION, data_url(png()))]
    for said in (
        await client.chat.completions.create(model=BASE, messages=messages, max_tokens=1),
        await client.chat.completions.create(model=BASE, messages=messages, max_completion_tokens=1, temperature=0.5),
    ):
        assert said.usage is not None
        assert (said.usage.completion_tokens, said.choices[0].finish_reason) == (1, "length")


async def test_an_image_may_be_behind_a_url(tmp_path: Path) -> None:
    async with origin() as web, serving(Settings(adapters=tmp_path, image_url_private=True), FakeEngine()) as running:
        web.paths = {"/cat.png": answer(200, png())}
        plain = (await ask(running)).json()["answer"]
        messages = [user(QUESTION, web.url("/cat.png"))]
        said = await over(running).chat.completions.create(model=BASE, messages=messages)
        assert said.choices[0].message.content == plain
        assert web.hits == 1


async def test_a_stream_adds_up_and_counts_when_asked(client: openai.AsyncOpenAI) -> None:
    messages = [user(QUESTION, data_url(png()))]
    whole = await client.chat.completions.create(model="shapes", messages=messages)
    stream = await client.chat.completions.create(
        model="shapes", messages=messages, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(chunk.choices[0].delta.role is None for chunk in chunks[1:])
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks][-2:] == [None, "stop"]
    assert (last.choices, last.usage) == ([], whole.usage)
    quiet = await client.chat.completions.create(model="shapes", messages=messages, stream=True)
    assert [chunk async for chunk in quiet if chunk.usage is not None] == []


async def test_a_stream_that_breaks_raises_in_the_client(tmp_path: Path) -> None:
    engine = Dying()
    async with serving(Settings(adapters=tmp_path), engine) as running:
        engine.doomed = True
        messages = [user(QUESTION)]
        stream = await over(running).chat.completions.create(model=BASE, messages=messages, stream=True)
        with pytest.raises(openai.APIError, match="not running"):
            [chunk async for chunk in stream]


async def test_what_was_said_before_is_part_of_the_question(client: openai.AsyncOpenAI) -> None:
    async def content(*messages: ChatCompletionMessageParam) -> str | None:
        said = await client.chat.completions.create(model=BASE, messages=messages)
        return said.choices[0].message.content

    shown, then = user("what is this?", data_url(png())), user("and why?")
    answers = [
        await content(then),
        await content(shown, {"role": "assistant", "content": "a disc"}, then),
        await content(shown, {"role": "assistant", "content": "a ring"}, then),
        await content({"role": "system", "content": "be brief"}, then),
    ]
    assert len(set(answers)) == len(answers)


async def test_an_answer_can_be_sent_back_as_it_came(client: openai.AsyncOpenAI) -> None:
    first = await client.chat.completions.create(model=BASE, messages=[user(QUESTION)])
    reply: Any = first.choices[0].message.model_dump()
    await client.chat.completions.create(model=BASE, messages=[user(QUESTION), reply, user("and why?")])


async def test_models_are_the_base_and_the_adapters(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == [BASE, "digits", "shapes"]
    assert (await client.models.retrieve("digits")).id == "digits"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("nope")


async def test_an_unknown_model_is_not_found_in_openai_s_shape(fake: Running, client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        await client.chat.completions.create(model="nope", messages=[user(QUESTION)])
    assert (raised.value.type, raised.value.code, raised.value.param) == (
        "invalid_request_error",
        "model_not_found",
        "model",
    )
    assert raised.value.request_id
    body = {"model": "nope", "messages": [{"role": "user", "content": QUESTION}], "stream": True}
    response = await fake.client.post("/v1/chat/completions", json=body)
    assert response.status_code == 404
    assert response.json()["error"].keys() == {"message", "type", "code", "param"}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "assistant", "content": "hello"}]}, "assistant"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "role"),
        ({"messages": [{"role": "user", "content": ""}]}, "empty"),
        ({"messages": [user(QUESTION, *[data_url(png())] * 5)]}, "5 images"),
        ({"n": 2}, "n:"),
        ({"top_p": 0.5}, "top_p"),
        ({"stop": ["x"]}, "stop"),
        ({"tools": []}, "tools"),
        ({"seed": 1}, "seed"),
    ],
)
async def test_what_is_not_done_is_refused_by_name(
    client: openai.AsyncOpenAI, change: dict[str, Any], word: str
) -> None:
    fields: dict[str, Any] = {"model": BASE, "messages": [user(QUESTION)]}
    with pytest.raises(openai.UnprocessableEntityError, match=word) as raised:
        await client.chat.completions.create(**fields | change)
    assert raised.value.code == "invalid_request"


async def test_a_full_service_and_a_dead_engine_are_the_server_s_errors(fake_adapters: Path) -> None:
    engine = FakeEngine()
    async with serving(Settings(adapters=fake_adapters, in_flight=1, waiting=0), engine) as small:
        async with small.app.state.service.vqa.admission.slot(ANYONE):
            with pytest.raises(openai.InternalServerError) as full:
                await over(small).chat.completions.create(model=BASE, messages=[user(QUESTION)])
        assert full.value.response.headers["retry-after"]
        await engine.stop()
        with pytest.raises(openai.InternalServerError) as died:
            await over(small).chat.completions.create(model=BASE, messages=[user(QUESTION)])
    for raised, code in ((full, "overloaded"), (died, "engine_unavailable")):
        assert (raised.value.status_code, raised.value.type, raised.value.code) == (503, "server_error", code)


async def test_a_key_is_the_client_s_and_its_faults_are_the_client_s_errors(
    fake_adapters: Path, tmp_path: Path
) -> None:
    keys = write(tmp_path / "keys.json", {"acme": {"adapters": ["dig*"]}, "slow": {"rate": "1/hour"}})
    async with serving(Settings(adapters=fake_adapters, keys=keys), FakeEngine()) as running:
        acme, slow = over(running, "key of acme"), over(running, "key of slow")
        assert [model.id async for model in acme.models.list()] == [BASE, "digits"]
        await acme.chat.completions.create(model="digits", messages=[user(QUESTION)])
        for model in ("shapes", "nope"):
            with pytest.raises(openai.NotFoundError) as unseen:
                await acme.chat.completions.create(model=model, messages=[user(QUESTION)])
            assert unseen.value.code == "model_not_found"
            with pytest.raises(openai.NotFoundError, match=f"there are: {BASE}, digits$"):
                await acme.models.retrieve(model)
        await slow.models.list()
        with pytest.raises(openai.RateLimitError) as limited:
            await slow.models.list()
        assert limited.value.type == "rate_limit_error"
        with pytest.raises(openai.AuthenticationError):
            await over(running).models.list()
