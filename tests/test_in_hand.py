"""Bytes in hand: never more than there may be, none lost, and who cannot have theirs in time is told so."""

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.fake import FakeEngine
from service.errors import Overloaded
from service.in_hand import WAIT_S, InHand
from service.settings import Settings
from tests.conftest import Running, serving, until
from tests.simulated import simulate
from tests.test_http_edge import QUESTION, assert_error

# When it comes, how much it takes, how long it holds that, and after which time its caller leaves.
visits = st.tuples(st.integers(0, 9), st.integers(0, 10), st.integers(0, 9), st.integers(0, 12))


@settings(deadline=None)
@given(st.lists(visits, max_size=30))
def test_there_are_never_more_than_may_be_and_none_is_lost(visits: list[tuple[int, int, int, int]]) -> None:
    async def scenario() -> None:
        hand = InHand(10)

        async def visit(at: int, count: int, hold: int, leaves: int) -> None:
            await asyncio.sleep(at)
            try:
                async with asyncio.timeout(leaves), hand.held(count):
                    assert 0 <= hand.left <= hand.total
                    await asyncio.sleep(hold)
            except (TimeoutError, Overloaded):
                pass

        await asyncio.gather(*[visit(*each) for each in visits])
        assert hand.left == hand.total
        assert hand._waiting == []

    simulate(scenario())


def test_who_fits_goes_and_who_does_not_waits_so_long_and_no_longer() -> None:
    async def scenario() -> None:
        hand, loop = InHand(10), asyncio.get_running_loop()
        await hand.take(7)
        large = asyncio.create_task(hand.take(5))
        await asyncio.sleep(1)
        await hand.take(2)  # small ones pass
        with pytest.raises(Overloaded) as refused:
            await large
        assert loop.time() == WAIT_S
        assert refused.value.retry_after_s
        late = asyncio.create_task(hand.take(8))
        await asyncio.sleep(1)
        hand.give(7)
        await late
        assert hand.left == 0

    simulate(scenario())


def body(size: int) -> bytes:
    return json.dumps({"question": QUESTION, "image": "A" * size}).encode()


JSON = {"content-type": "application/json"}


async def test_a_body_that_has_no_room_is_503_and_room_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.in_hand.WAIT_S", 0.05)
    engine = FakeEngine()
    limits = {"body_limit": 1_000_000, "bytes_in_hand": 2_000_000, "in_flight": 1}
    async with serving(Settings.model_validate({"adapters": str(tmp_path), **limits}), engine) as running:
        hand: InHand = running.app.state.service.vqa.in_hand
        engine.step_s = 5.0
        words = json.dumps({"question": QUESTION}).encode().ljust(900_000)
        asking = [asyncio.create_task(running.client.post("/v1/vqa", content=words, headers=JSON)) for _ in range(2)]
        await until(lambda: hand.left == 200_000)
        refused = await running.client.post("/v1/vqa", content=words, headers=JSON)
        assert_error(refused, 503, "overloaded")
        assert refused.headers["retry-after"]
        assert (await running.client.get("/healthz")).is_success
        assert_error(await running.client.post("/v1/vqa", json={"question": ""}), 422, "invalid_request")
        assert "vqa_bytes_in_hand 1.8e+06" in (await running.client.get("/metrics")).text
        for task in asking:
            task.cancel()
        await until(lambda: hand.left == hand.total)


async def test_whatever_becomes_of_a_request_its_bytes_come_back(fake: Running) -> None:
    hand: InHand = fake.app.state.service.vqa.in_hand
    for path in ("/v1/vqa", "/v1/chat/completions", "/v1/vqa/batch", "/nope"):
        for content in (b"{", body(100_000), json.dumps({"question": QUESTION, "stream": True}).encode()):
            await fake.client.post(path, content=content, headers=JSON)
            assert hand.left == hand.total
    await fake.client.post("/v1/vqa", data={"question": QUESTION}, files={"image": bytes(100_000)})
    assert hand.left == hand.total


def test_a_budget_below_one_body_is_refused_at_start() -> None:
    with pytest.raises(ValueError, match="--body-limit"):
        Settings(bytes_in_hand=1000)
