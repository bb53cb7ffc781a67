"""What OpenAI's clients were seen to send: on the real engine, since what they want is the answer, "blue"."""

import shutil
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from service.checkpoint import locate
from service.engine.fake import FakeEngine
from service.settings import Settings
from tests.conftest import CHECKPOINT, Running, png, serving
from tests.test_http_edge import data_url

TEXT = {"type": "text", "text": "what color is the shape?"}
IMAGE = {"type": "image_url", "image_url": {"url": data_url(png("blue", (96, 72)))}}
ASKED: dict[str, Any] = {"role": "user", "content": [TEXT, IMAGE]}
THEN = {"role": "user", "content": "what shape is in the image?"}


async def choice(real: Running, *messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    body = {"model": "shapes", "messages": messages or [ASKED], **fields}
    response = await real.client.post("/v1/chat/completions", json=body)
    found: dict[str, Any] = response.raise_for_status().json()["choices"][0]
    return found


async def content(real: Running, *messages: dict[str, Any], **fields: Any) -> str:
    return str((await choice(real, *messages, **fields))["message"]["content"])


NEUTRAL: list[dict[str, Any]] = [
    {
        "response_format": {"type": "text"},
        "temperature": 0,
        "max_completion_tokens": 64,
        "top_p": 1,
        "frequency_penalty": 0,
        "presence_penalty": 0,
        "store": False,
    },
    {
        "seed": None,
        "stop": [],
        "tools": [],
        "tool_choice": "none",
        "logit_bias": {},
        "metadata": {},
        "top_logprobs": None,
        "response_format": None,
        "stream": None,
        "top_k": -1,
        "repetition_penalty": 1.0,
        "min_p": 0,
    },
]


@pytest.mark.engine
@pytest.mark.parametrize("fields", NEUTRAL, ids=["defaults", "nulls"])
async def test_01_neutral_fields_ask_for_nothing(real: Running, fields: dict[str, Any]) -> None:
    assert await content(real, **fields) == "blue"
    assert (await choice(real, **fields | {"temperature": 1}))["message"]["content"]


@pytest.mark.engine
async def test_02_a_seed_is_taken(real: Running) -> None:
    assert await content(real, seed=42) == "blue"
    drawn = [await content(real, seed=42, temperature=2.0) for _ in range(3)]
    assert len(set(drawn)) == 1


@pytest.mark.engine
async def test_03_stop_texts_cut_the_answer(real: Running) -> None:
    for stop in ([], "\n", ["\n"]):
        assert await content(real, stop=stop) == "blue"
    for stop in ("u", ["ue", "e"]):
        cut = await choice(real, stop=stop)
        assert (cut["message"]["content"], cut["finish_reason"]) == ("bl", "stop")


@pytest.mark.engine
async def test_04_our_reply_comes_back_from_litellm(real: Running) -> None:
    reply: dict[str, Any] = {"role": "assistant", "content": "blue"}
    plain = await content(real, ASKED, reply, THEN)
    extra: list[dict[str, Any]] = [
        {"provider_specific_fields": {"refusal": None}},
        {"refusal": None, "annotations": [], "audio": None, "function_call": None, "tool_calls": None},
    ]
    for fields in extra:
        assert await content(real, ASKED, reply | fields, THEN) == plain


@pytest.mark.engine
async def test_06_an_empty_system_message_is_left_out(real: Running) -> None:
    for empty in ("", "  ", [{"type": "text", "text": ""}]):
        assert await content(real, {"role": "system", "content": empty}, ASKED) == "blue"


@pytest.mark.engine
async def test_07_an_image_without_words(real: Running) -> None:
    shown = {"role": "user", "content": [IMAGE]}
    assert (await choice(real, shown))["finish_reason"] == "stop"
    assert await content(real, shown, {"role": "user", "content": "what color is the shape?"})


@pytest.mark.engine
async def test_08_an_empty_turn_of_the_assistant_is_left_out(real: Running) -> None:
    found = {await content(real, ASKED, {"role": "assistant", "content": empty}, THEN) for empty in ("", None)}
    assert found == {await content(real, ASKED, THEN)}


@pytest.mark.engine
async def test_09_an_image_url_as_a_string(real: Running) -> None:
    older = {"type": "image_url", "image_url": IMAGE["image_url"]["url"]}  # type: ignore[index]
    assert await content(real, {"role": "user", "content": [TEXT, older]}) == "blue"


@pytest.mark.engine
async def test_10_max_tokens_is_a_ceiling(real: Running) -> None:
    for ceiling in (1000, 10**9, -1, None):
        assert await content(real, max_tokens=ceiling) == "blue"
    long = {"model": "shapes", "messages": [{"role": "user", "content": "what is it? " * 1000}], "max_tokens": 5}
    response = await real.client.post("/v1/chat/completions", json=long)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"


async def test_26_a_hub_model_goes_by_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef" * 2 + "01234567"
    model = tmp_path / "hub/models--acme--tiny-llava-vqa"
    shutil.copytree(CHECKPOINT, model / "snapshots" / commit)
    (model / "refs").mkdir()
    (model / "refs/main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "store").mkdir()
    settings = Settings(model="acme/tiny-llava-vqa", adapters=str(tmp_path / "store"))
    async with serving(settings, FakeEngine(), checkpoint=locate(settings.model)) as running:
        models = (await running.client.get("/v1/models")).json()["data"]
        assert [each["id"] for each in models] == ["acme/tiny-llava-vqa"]
        assert (await running.client.get("/v1/models/acme/tiny-llava-vqa")).status_code == 200
        body = {"model": "acme/tiny-llava-vqa", "messages": [{"role": "user", "content": "what is it?"}]}
        assert (await running.client.post("/v1/chat/completions", json=body)).status_code == 200
        assert (await running.client.get("/v1/adapters")).json()["base"]["id"] == "acme/tiny-llava-vqa"
