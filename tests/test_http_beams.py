"""`beams` over HTTP: the best answer of a search, with its own confidence, and what it does not go with."""

import math
from pathlib import Path
from typing import Any

import pytest

from service.engine.fake import FakeEngine
from service.prompt import Prompt
from service.settings import Settings
from service.types import Query, TokenIds
from tests.conftest import Running, serving
from tests.test_batch import batch
from tests.test_http_edge import QUESTION, ask, assert_error


class Speaking(FakeEngine):
    """Knows one language, in which the likeliest first word leads astray; 300 to 304 are any words of the tokenizer."""

    def __init__(self, end: int) -> None:
        super().__init__()
        self.table = {(): {300: 0.6, 301: 0.4}, (300,): {302: 0.4, 303: 0.35, end: 0.25}, (301,): {304: 0.9, end: 0.1}}
        self.end = end

    def logprob(self, query: Query, said: TokenIds, token: int) -> float:  # noqa: ARG002 - one language for all
        return math.log(self.table.get(said, {self.end: 1.0}).get(token, 1e-12))


async def test_the_best_whole_answer_is_found_with_its_confidence_and_tokens(tmp_path: Path, prompt: Prompt) -> None:
    async with serving(Settings(adapters=str(tmp_path)), Speaking(prompt.end_token_id)) as running:
        body = (await ask(running, beams=2)).raise_for_status().json()
        assert body["answer"] == prompt.decode([301, 304]) != ""
        assert body["confidence"] == pytest.approx(0.4 * 0.9)
        assert body["usage"]["completion_tokens"] == 3
        assert body["usage"]["image_tokens"] == 1
        assert body["finish_reason"] == "stop"
        short = (await ask(running, beams=2, max_tokens=1)).raise_for_status().json()
        assert (short["answer"], short["finish_reason"]) == (prompt.decode([300]), "length")
        together = (await batch(running, {"question": QUESTION, "beams": 2}, QUESTION)).raise_for_status().json()
        assert together["results"][0]["answer"] == body["answer"]


async def test_one_beam_is_a_plain_answer(fake: Running) -> None:
    plain = (await ask(fake, adapter="digits")).json()
    one = (await ask(fake, adapter="digits", beams=1, stream=False)).json()
    assert [one[part] for part in ("answer", "confidence", "usage")] == [
        plain[part] for part in ("answer", "confidence", "usage")
    ]
    (await ask(fake, beams=1, stream=True, temperature=1)).raise_for_status()


@pytest.mark.parametrize(
    ("beside", "named"),
    [
        ({"choices": ["yes", "no"]}, "choices"),
        ({"temperature": 0.5}, "temperature"),
        ({"stream": True}, "stream"),
        ({"stream": True, "choices": ["yes", "no"], "temperature": 1}, "choices, temperature, stream"),
    ],
)
async def test_what_beams_do_not_go_with_is_named(fake: Running, beside: dict[str, Any], named: str) -> None:
    assert f"beams does not go with {named}:" in assert_error(
        await ask(fake, beams=2, **beside), 422, "invalid_request"
    )


@pytest.mark.parametrize("number", [0, 9, -1, 2.5, "many"])
async def test_a_number_of_beams_that_means_nothing_is_422(fake: Running, number: Any) -> None:
    assert "beams" in assert_error(await ask(fake, beams=number), 422, "invalid_request")


async def test_an_answer_too_long_to_search_for_is_422(fake: Running) -> None:
    assert_error(await ask(fake, beams=2, max_tokens=4096), 422, "prompt_too_long")


async def test_the_schema_says_what_confidence_and_beams_mean(fake: Running) -> None:
    document = (await fake.client.get("/openapi.json")).json()
    shapes = document["components"]["schemas"]
    assert "probability" in shapes["VQAResponse"]["properties"]["confidence"]["description"]
    assert "end included" in shapes["VQAResponse"]["properties"]["confidence"]["description"]
    content = document["paths"]["/v1/vqa"]["post"]["requestBody"]["content"]
    for body in content.values():
        assert "beam search" in body["schema"]["properties"]["beams"]["description"]
