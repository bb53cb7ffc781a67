"""Sizes before work: what a body costs is judged before anything is made of it; its faults are told in a few words."""

import json
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.routes import bodies
from service.settings import Settings
from tests.conftest import Running
from tests.test_http_edge import QUESTION, assert_error

JSON = {"content-type": "application/json"}
texts = st.text(st.sampled_from('a,[{:"\\\n'), max_size=6)
values = st.recursive(
    st.none() | st.integers() | texts, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=12
)


def count(value: Any) -> int:
    """The values of a JSON value, itself and its keys among them."""
    if isinstance(value, dict):
        return 1 + sum(1 + count(each) for each in value.values())
    return 1 + sum(map(count, value)) if isinstance(value, list) else 1


@given(values, st.booleans(), st.integers(0, 6))
def test_the_values_of_a_body_are_counted_in_its_bytes(value: Any, spaced: bool, strings: int) -> None:
    body = json.dumps(value, indent=1 if spaced else None).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bodies, "_STRINGS", strings)
        patch.setattr(bodies, "MOST_VALUES", max(count(value) - 2, 0))
        assert count(value) < 2 or not bodies._few_values(body)
        patch.setattr(bodies, "MOST_VALUES", 2 * count(value))
        assert bodies._few_values(body)


@given(st.binary(max_size=99))
def test_bytes_that_are_no_json_are_counted_all_the_same(body: bytes) -> None:
    assert bodies._few_values(body)


async def cost(running: Running, path: str, body: bytes) -> tuple[Any, float, float]:
    """What comes of a body, the seconds and the megabytes it takes at most."""
    tracemalloc.start()
    try:
        began = time.perf_counter()
        response = await running.client.post(path, content=body, headers=JSON)
        return response, time.perf_counter() - began, tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


PATHS = ("/v1/vqa", "/v1/vqa/batch", "/v1/chat/completions", "/v1/feedback", "/v1/adapters/digits")
ONES = b"[" + b"1," * 100_000 + b"1]"
MANY = {
    "a list of numbers": b"[" + b"1," * 500_000 + b"1]",
    "a list of numbers in each field": b'{"questions": %b, "adapters": %b, "messages": %b}' % (ONES, ONES, ONES),
    "lists in a list": b'{"question": [' + b"[]," * 300_000 + b"[]]}",
    "fields nobody knows": b"{" + b",".join(b'"k%d":1' % number for number in range(9_000)) + b"}",
    "a long name": b'{"' + b"k" * 1_000_000 + b'": 1}',
}


@pytest.mark.parametrize("body", MANY.values(), ids=MANY.keys())
@pytest.mark.parametrize("path", PATHS)
async def test_a_body_of_a_megabyte_of_faults_is_told_in_a_few_words(fake: Running, path: str, body: bytes) -> None:
    method = "PUT" if path.endswith("digits") else "POST"
    response = await fake.client.request(method, path, content=body, headers=JSON)
    assert response.status_code == 422
    assert len(response.content) < 5_000


async def test_a_body_of_faults_costs_no_memory_to_speak_of(fake: Running) -> None:
    for body in MANY.values():
        response, _, megabytes = await cost(fake, "/v1/vqa/batch", body)
        assert response.status_code == 422
        assert megabytes < 40


@pytest.mark.parametrize("each", [300, 1000])
async def test_a_batch_of_many_by_many_is_judged_before_it_is_made(fake: Running, each: int) -> None:
    body = json.dumps({"questions": ["?"] * each, "adapters": ["shapes"] * each}).encode()
    response, _, megabytes = await cost(fake, "/v1/vqa/batch", body)
    assert f"{each * each:,} questions" in assert_error(response, 422, "invalid_request")
    assert megabytes < 10


async def test_choices_of_more_text_than_can_be_weighed_are_refused_untokenized(
    fake: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake.app.state.service.vqa.prompt, "encode_answer", lambda *_: pytest.fail("tokenized"))
    body = {"question": QUESTION, "choices": [f"{number} {'word ' * 190}" for number in range(32)]}
    message = assert_error(await fake.client.post("/v1/vqa", json=body), 422, "invalid_request")
    assert "characters" in message


async def test_a_text_full_of_marks_is_a_text(fake: Running) -> None:
    message = assert_error(
        await fake.client.post("/v1/vqa", json={"question": ",[{:" * 4_000, "image": None}), 422, "prompt_too_long"
    )
    assert "tokens" in message


def arrays(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every array of a JSON schema, and where it stands."""
    if isinstance(schema, dict):
        if schema.get("type") == "array":
            yield path, schema
        for key, value in schema.items():
            yield from arrays(value, f"{path}/{key}")
    elif isinstance(schema, list):
        for number, value in enumerate(schema):
            yield from arrays(value, f"{path}/{number}")


async def test_every_list_of_every_body_has_a_bound(fake: Running) -> None:
    asked = [
        (f"{method} {route}", operation["requestBody"])
        for route, operations in fake.app.openapi()["paths"].items()
        for method, operation in operations.items()
        if "requestBody" in operation
    ]
    found = [(name, where, schema) for name, body in asked for where, schema in arrays(body)]
    assert len(found) > 5
    assert [f"{name}{where}" for name, where, schema in found if "maxItems" not in schema] == []


def test_options_stay_within_what_the_shapes_take() -> None:
    assert Settings(batch_questions=1024, images_per_question=64)
    for option in ("batch_questions", "images_per_question"):
        with pytest.raises(ValueError, match=f"{option}\n.*less than or equal"):
            Settings.model_validate({option: 1025})
