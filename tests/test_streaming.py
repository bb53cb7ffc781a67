"""Answers as they come, and clients that leave: over a socket, since only there can one hang up."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from service.engine.fake import FakeEngine
from service.settings import Settings
from service.types import Delta, Query
from tests.conftest import Running, png, serving, until
from tests.test_http_edge import QUESTION, ask, assert_error, data_url


class Dying(FakeEngine):
    """Stops after its first word while `doomed`."""

    doomed = False

    async def generate(self, query: Query) -> AsyncGenerator[Delta, None]:
        async for delta in super().generate(query):
            yield delta
            if self.doomed:
                await self.stop()


class Stalling(FakeEngine):
    """Says nothing after its first word while `stalls`."""

    stalls = False

    async def generate(self, query: Query) -> AsyncGenerator[Delta, None]:
        async for delta in super().generate(query):
            yield delta
            if self.stalls:
                self.step_s = 60.0


def events(text: str) -> list[tuple[str, Any]]:
    """(event, data) of a whole stream; data that is JSON is read."""
    found = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        data = fields["data"]
        found.append((fields.get("event", "message"), json.loads(data) if data.startswith("{") else data))
    return found


async def outcome(running: Running, name: str) -> bool:
    metrics = (await running.client.get("/metrics")).text
    return f'vqa_requests_total{{adapter="",outcome="{name}"}} 1.0' in metrics


async def test_the_pieces_add_up_to_the_answer_that_comes_last(fake: Running) -> None:
    whole = (await ask(fake, adapter="digits")).json()
    response = await ask(fake, adapter="digits", stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    *pieces, (_, last), done = events(response.text)
    assert done == ("message", "[DONE]")
    assert len(pieces) > 1
    assert "".join(piece["delta"] for _, piece in pieces) == last["answer"] == whole["answer"]
    assert last.keys() == whole.keys()
    for part in ("adapter", "usage", "confidence", "finish_reason"):
        assert last[part] == whole[part]


async def test_a_form_streams_too(fake: Running) -> None:
    response = await fake.client.post("/v1/vqa", data={"question": QUESTION, "stream": "true"}, files={"image": png()})
    assert events(response.text)[-1] == ("message", "[DONE]")


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"adapter": "nope"}, 404, "adapter_not_found"),
        ({"image": data_url(b"<html>")}, 415, "image_type_refused"),
        ({"question": "what is it? " * 1000}, 422, "prompt_too_long"),
    ],
)
async def test_what_fails_before_the_first_word_has_its_status(
    fake: Running, fields: dict[str, Any], status: int, code: str
) -> None:
    assert_error(await ask(fake, stream=True, **fields), status, code)


async def test_what_fails_after_the_first_word_is_an_event(tmp_path: Path) -> None:
    engine = Dying()
    async with serving(Settings(adapters=tmp_path), engine) as running:
        engine.doomed = True
        response = await ask(running, stream=True)
    assert response.status_code == 200
    piece, (event, body) = events(response.text)
    assert piece[1].keys() == {"delta"}
    assert event == "error"
    assert body["error"]["code"] == "engine_unavailable"
    assert body["error"]["request_id"] == response.headers["x-request-id"]


async def test_a_deadline_that_passes_in_the_stream_is_an_event(tmp_path: Path) -> None:
    engine = Stalling()
    async with serving(Settings(adapters=tmp_path), engine) as running:
        engine.stalls = True
        *_, (event, body) = events((await ask(running, stream=True, deadline_s=2)).text)
        assert (event, body["error"]["code"]) == ("error", "deadline_exceeded")
        assert engine.running == 0


async def leave_while_streaming(running: Running) -> None:
    """Hear the first piece, then hang up."""
    body = {"question": QUESTION, "image": data_url(png()), "stream": True}
    async with running.client.stream("POST", "/v1/vqa", json=body) as response:
        async for _ in response.aiter_lines():
            break


async def leave_while_waiting(running: Running, stream: bool) -> None:
    """Hang up while the engine has said nothing."""
    asking = asyncio.create_task(ask(running, stream=stream))
    engine = running.engine
    assert isinstance(engine, FakeEngine)
    await until(lambda: engine.running == 1)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


@pytest.mark.parametrize(
    ("leave", "step_s"),
    [
        (leave_while_streaming, 0.1),
        (lambda running: leave_while_waiting(running, stream=True), 5.0),
        (lambda running: leave_while_waiting(running, stream=False), 5.0),
    ],
    ids=["in a stream", "before a stream", "without a stream"],
)
async def test_a_client_that_leaves_frees_its_slot_and_the_engine_within_a_second(
    socket: Running, leave: Callable[[Running], Awaitable[None]], step_s: float
) -> None:
    engine, admission = socket.engine, socket.app.state.service.vqa.admission
    assert isinstance(engine, FakeEngine)
    engine.step_s = step_s
    await leave(socket)
    async with asyncio.timeout(1):
        await until(lambda: engine.running == 0 and admission.requests == 0)
    assert await outcome(socket, "cancelled")
    engine.step_s = 0
    (await ask(socket)).raise_for_status()


async def test_a_client_that_leaves_the_queue_frees_its_place(socket: Running) -> None:
    engine, admission = socket.engine, socket.app.state.service.vqa.admission
    assert isinstance(engine, FakeEngine)
    engine.step_s = 0.3
    holding, waiting = asyncio.create_task(ask(socket)), asyncio.create_task(ask(socket))
    await until(lambda: admission.requests == 2)
    waiting.cancel()
    await until(lambda: admission.requests == 1)
    (await holding).raise_for_status()
    assert await outcome(socket, "cancelled")
