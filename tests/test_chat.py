"""OpenAI's own client asks: an adapter is a model, a picture is an image_url, an error is one of its classes."""

import contextlib
import json
import shutil
import time
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel

from service.engine.fake import FakeEngine
from service.errors import FormatRefused
from service.schemas import neutral
from service.schemas.chat import ChatRequest
from service.schemas.formats import SchemaFormat, schema_of
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


@pytest.mark.parametrize("ceiling", ["max_tokens", "max_completion_tokens"])
async def test_more_tokens_than_the_context_has_room_for_are_clamped_and_not_refused(
    fake: Running, client: openai.AsyncOpenAI, ceiling: str
) -> None:
    """Benchmarks ask for 4,096 tokens of any model: the answer ends where the context does, with reason `length`."""
    messages, asked = [user(QUESTION, data_url(png()))], {ceiling: 4096}
    whole = await client.chat.completions.create(model=BASE, messages=messages, extra_body=asked)
    assert whole.usage is not None
    assert (whole.choices[0].finish_reason, whole.usage.completion_tokens > 1) == ("stop", True)
    assert isinstance(fake.engine, FakeEngine)
    fake.engine.max_model_len = whole.usage.prompt_tokens + 1
    clamped = await client.chat.completions.create(model=BASE, messages=messages, extra_body=asked)
    assert clamped.usage is not None
    assert (clamped.choices[0].finish_reason, clamped.usage.completion_tokens) == ("length", 1)


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
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "tool_call_id"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "role"),
        ({"messages": [{"role": "user", "content": ""}]}, "empty"),
        ({"messages": [{"role": "user", "content": "hi"}, {"role": "user", "content": None}]}, "empty"),
        ({"messages": [user(QUESTION, *[data_url(png())] * 5)]}, "5 images"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}, user(QUESTION)]}, "tool_calls"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}, "input_audio"),
        ({"n": 2}, "n:"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools: .*response_format"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"logit_bias": {"7": 3}}, "logit_bias"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"store": True}, "store"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"extra_body": {"top_k": 5}}, "top_k"),
        ({"extra_body": {"guided_json": {}}}, "guided_json.*response_format"),
        ({"extra_body": {"surprise": 1}}, "surprise"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"top_p": 1.5}, "top_p"),
        ({"seed": 2**63}, "seed"),
        ({"max_tokens": -2}, "max_tokens"),
        ({"top_logprobs": 2}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"response_format": {"type": "xml"}}, "response_format"),
    ],
)
async def test_what_is_not_done_is_refused_by_name(
    client: openai.AsyncOpenAI, change: dict[str, Any], word: str
) -> None:
    fields: dict[str, Any] = {"model": BASE, "messages": [user(QUESTION)]}
    with pytest.raises(openai.UnprocessableEntityError, match=word) as raised:
        await client.chat.completions.create(**fields | change)
    assert raised.value.code == "invalid_request"


@pytest.mark.parametrize("name", sorted(neutral.REQUEST))
async def test_every_known_field_may_stand_with_its_neutral_value(client: openai.AsyncOpenAI, name: str) -> None:
    plain = await client.chat.completions.create(model=BASE, messages=[user(QUESTION)])
    values = neutral.REQUEST[name]
    for value in (None, *(("anything", {"of": "any kind"}) if values is None else values)):
        said = await client.chat.completions.create(model=BASE, messages=[user(QUESTION)], extra_body={name: value})
        assert said.choices[0].message.content == plain.choices[0].message.content
    if values is not None:
        with pytest.raises(openai.UnprocessableEntityError, match=name):
            await client.chat.completions.create(model=BASE, messages=[user(QUESTION)], extra_body={name: "wish"})


async def test_null_is_no_wish_in_any_field(fake: Running) -> None:
    fields = ChatRequest.model_fields.keys() - {"model", "messages"}
    body: dict[str, Any] = {"model": BASE, "messages": [{"role": "user", "content": QUESTION}]}
    plain = (await fake.client.post("/v1/chat/completions", json=body)).raise_for_status().json()
    said = await fake.client.post("/v1/chat/completions", json=body | dict.fromkeys(fields))
    assert said.raise_for_status().json()["choices"] == plain["choices"]


async def test_what_replies_have_comes_back_and_turns_without_words_are_left_out(client: openai.AsyncOpenAI) -> None:
    async def content(*messages: Any) -> str | None:
        said = await client.chat.completions.create(model=BASE, messages=messages)
        return said.choices[0].message.content

    shown, then = user("what is this?", data_url(png())), user("and why?")
    reply: dict[str, Any] = {"role": "assistant", "content": "a disc"}
    plain = await content(shown, reply, then)
    for extra in (
        dict.fromkeys(neutral.MESSAGE),
        {"tool_calls": [], "provider_specific_fields": {"refusal": None}, "annotations": [], "reasoning_content": "so"},
    ):
        assert await content(shown, reply | extra, then) == plain
    nothing = await content(shown, then)
    empties: list[Any] = ["", " ", None, []]
    for empty in empties:
        assert await content(shown, {"role": "assistant", "content": empty}, then) == nothing
        assert await content({"role": "system", "content": empty}, shown, then) == nothing
    assert await content(shown, {"role": "assistant", "refusal": "no"}, then) == nothing


async def test_an_image_is_enough_and_may_be_a_string_or_have_a_detail(client: openai.AsyncOpenAI) -> None:
    url = data_url(png())
    forms: list[Any] = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "image_url", "image_url": url},
        {"type": "image_url", "image_url": {"url": url, "detail": "low", "format": "image/png"}},
    ]
    alone, asked = set(), set()
    for form in forms:
        said = await client.chat.completions.create(model=BASE, messages=[{"role": "user", "content": [form]}])
        alone.add(said.choices[0].message.content)
        messages: Any = [{"role": "user", "content": [form]}, {"role": "user", "content": "what is this?"}]
        asked.add((await client.chat.completions.create(model=BASE, messages=messages)).choices[0].message.content)
    assert len(alone) == len(asked) == 1
    assert alone != asked


async def test_a_stop_text_ends_the_answer(client: openai.AsyncOpenAI) -> None:
    messages = [user(QUESTION, data_url(png()))]
    whole = (await client.chat.completions.create(model=BASE, messages=messages)).choices[0].message.content or ""
    first, second, *_ = whole.split()
    for stop in (second, ["never said", second], [second, ""]):
        said = await client.chat.completions.create(model=BASE, messages=messages, stop=stop)
        assert (said.choices[0].message.content, said.choices[0].finish_reason) == (first, "stop")
    none: Any = []
    said = await client.chat.completions.create(model=BASE, messages=messages, stop=none)
    assert said.choices[0].message.content == whole


async def test_tokens_come_with_their_probabilities_where_asked_streamed_or_not(client: openai.AsyncOpenAI) -> None:
    messages = [user(QUESTION, data_url(png()))]
    plain = await client.chat.completions.create(model=BASE, messages=messages, logprobs=False)
    assert plain.choices[0].logprobs is None
    said = await client.chat.completions.create(model=BASE, messages=messages, logprobs=True, top_logprobs=2)
    logprobs = said.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert "".join(token.token for token in logprobs.content) == said.choices[0].message.content
    assert [len(token.top_logprobs) for token in logprobs.content] == [2] * len(logprobs.content)
    assert bytes(logprobs.content[0].bytes or []).decode() == logprobs.content[0].token
    stream = await client.chat.completions.create(
        model=BASE, messages=messages, logprobs=True, top_logprobs=2, stream=True
    )
    streamed = [chunk.choices[0].logprobs async for chunk in stream]
    assert [token for each in streamed if each for token in each.content or []] == logprobs.content


class Shape(BaseModel):
    """What an answer can be parsed into."""

    colour: Literal["red", "blue"]
    round: bool
    sides: int | None


async def test_an_answer_is_json_where_a_response_format_asks_for_it(client: openai.AsyncOpenAI) -> None:
    messages = [user(QUESTION, data_url(png()))]
    parsed = await client.chat.completions.parse(model="shapes", messages=messages, response_format=Shape)
    assert isinstance(parsed.choices[0].message.parsed, Shape)
    loose = await client.chat.completions.create(
        model="shapes", messages=messages, response_format={"type": "json_object"}
    )
    assert isinstance(json.loads(loose.choices[0].message.content or ""), dict)


def nested(levels: int) -> dict[str, Any]:
    return {"items": nested(levels - 1)} if levels else {}


@pytest.mark.parametrize(
    ("schema", "word"),
    [
        ({"type": "colour"}, "colour"),
        ({"not": {"type": "string"}}, "keyword not"),
        ({"properties": {"a": {"if": {}, "then": {}}}}, "keyword else|keyword if"),
        ({"$ref": "https://example.com/schema.json"}, "another place of the same schema"),
        ({"type": "string", "pattern": "^(?=a)b$"}, "look around"),
        ({"type": "string", "pattern": "^((a{1,99}){1,99}b)$"}, "maxLength"),
        ({"patternProperties": {"^(.{9999999999}){9}$": {}}}, "maxLength"),
        ({"enum": [f"value {number}" for number in range(4000)]}, "16,384 bytes"),
        ({"type": "string", "pattern": f"^[{'aé' * 2000}]{{2,99}}$"}, "maxLength"),
        ({"properties": {f"p{number}": {} for number in range(600)}}, "512 schemas"),
        ({"type": "array", "items": {"type": "string", "maxLength": 60_000}}, "counts come to over 50,000"),
        ({"properties": {"a": {}}, "minProperties": 1}, "beside properties"),
        (nested(40), "levels"),
    ],
)
async def test_a_schema_over_its_bounds_is_400_before_the_engine_hears_of_it(
    fake: Running, client: openai.AsyncOpenAI, schema: dict[str, Any], word: str
) -> None:
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    with pytest.raises(openai.BadRequestError, match=word) as raised:
        await client.chat.completions.create(model=BASE, messages=[user(QUESTION)], response_format=wanted)
    assert (raised.value.code, raised.value.param) == ("format_refused", "response_format")


@pytest.mark.parametrize("name", ["schema", "value"])
async def test_a_json_object_may_bring_its_schema(client: openai.AsyncOpenAI, name: str) -> None:
    wanted: Any = {"type": "json_object", name: {"enum": [["so"]]}}
    said = await client.chat.completions.create(model=BASE, messages=[user(QUESTION)], response_format=wanted)
    assert json.loads(said.choices[0].message.content or "") == ["so"]


async def test_properties_may_be_named_as_keywords_are(client: openai.AsyncOpenAI) -> None:
    names = ("not", "if", "pattern", "$ref")
    schema = {"type": "object", "properties": {name: {"type": "boolean"} for name in names}, "required": list(names)}
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    said = await client.chat.completions.create(model=BASE, messages=[user(QUESTION)], response_format=wanted)
    assert json.loads(said.choices[0].message.content or "").keys() == set(names)


@pytest.mark.parametrize("pattern", ["[" * 16_000, "{" + "1" * 16_000, "[" + "a" * 16_000 + "\\", "{1," * 5_000])
def test_a_pattern_made_to_be_tried_over_and_over_is_counted_at_once(pattern: str) -> None:
    started = time.process_time()
    wanted = SchemaFormat.model_validate({"type": "json_schema", "json_schema": {"schema": {"pattern": pattern}}})
    with contextlib.suppress(FormatRefused):
        schema_of(wanted)
    assert time.process_time() - started < 0.5  # trying every part again takes many seconds


@given(st.text(alphabet="ab(){}[]\\|^$.*+?,0123456789", max_size=40))
def test_a_pattern_is_counted_whatever_it_says(pattern: str) -> None:
    wanted = SchemaFormat.model_validate({"type": "json_schema", "json_schema": {"schema": {"pattern": pattern}}})
    with contextlib.suppress(FormatRefused):
        assert json.loads(schema_of(wanted) or "") == {"pattern": pattern}


@pytest.mark.parametrize("ceiling", [1000, 2**31 - 1, -1, 0, None])
async def test_max_tokens_is_a_ceiling_over_the_room_or_none(client: openai.AsyncOpenAI, ceiling: int | None) -> None:
    plain = await client.chat.completions.create(model=BASE, messages=[user(QUESTION)])
    said = await client.chat.completions.create(model=BASE, messages=[user(QUESTION)], max_tokens=ceiling)
    assert said.choices[0] == plain.choices[0]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_conversation_over_the_context_is_400_in_openai_s_word(
    client: openai.AsyncOpenAI, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        await client.chat.completions.create(model=BASE, messages=[user("what is it? " * 1000)], stream=stream)
    assert (raised.value.code, raised.value.param) == ("context_length_exceeded", "messages")
    assert "this model's maximum context length is 1024 tokens" in raised.value.message


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/responses", "/v1/embeddings"])
async def test_openai_s_other_routes_say_what_to_use(fake: Running, path: str) -> None:
    for method in ("GET", "POST"):
        response = await fake.client.request(method, path, json={"model": BASE, "prompt": "hi"})
        assert response.status_code == 404
        error = response.json()["error"]
        assert (error["code"], error["type"]) == ("not_served", "invalid_request_error")
        assert "/v1/chat/completions" in error["message"]


async def test_a_model_says_since_when_and_how_much_it_reads(client: openai.AsyncOpenAI) -> None:
    for model in (await client.models.list()).data:
        assert time.time() - 600 < model.created <= time.time()
        assert model.to_dict()["max_model_len"] == 1024
        assert model == await client.models.retrieve(model.id)


async def test_the_base_may_be_named_on_every_face(fake: Running) -> None:
    plain = (await ask(fake)).json()
    for named in ({"adapter": BASE}, {"model": BASE}):
        body = (await ask(fake, **named)).raise_for_status().json()
        assert (body["answer"], body["adapter"]) == (plain["answer"], None)


async def test_a_404_names_what_can_be_asked_and_stops_after_ten(fake_adapters: Path, tmp_path: Path) -> None:
    for number in range(12):
        shutil.copytree(fake_adapters / "digits", tmp_path / f"digits-{number:02}")
    async with serving(Settings(adapters=tmp_path, adapters_unproven=True), FakeEngine()) as running:
        served = running.app.state.service.residency.served.names()
        assert len(served) == 12
        chat = {"model": "nope", "messages": [{"role": "user", "content": QUESTION}]}
        batch = {"questions": [{"question": QUESTION, "adapter": "nope"}]}
        told = [
            (await ask(running, adapter="nope")).json()["error"]["message"],
            (await running.client.post("/v1/chat/completions", json=chat)).json()["error"]["message"],
            (await running.client.get("/v1/models/nope")).json()["error"]["message"],
            (await running.client.post("/v1/vqa/batch", json=batch)).json()["results"][0]["error"]["message"],
        ]
        for message in told:
            assert message.endswith(
                f"there are: {', '.join([BASE, *served[:9]])} and 3 more: GET /v1/models lists them"
            )


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
