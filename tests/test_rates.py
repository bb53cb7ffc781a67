"""Tenants' rates, counted over all replicas where there is a Redis, and by each where there is none or it fails."""

import asyncio
from pathlib import Path

import httpx
import limits
import pytest

from service.engine.fake import FakeEngine
from service.rates import Rates
from service.settings import Settings
from service.shared import Shared
from tests.conftest import serving
from tests.redis_server import Redis, needs_redis
from tests.test_auth import bearer, write

RATE = limits.parse("100/hour")


async def taken(replicas: list[Rates], requests: int) -> int:
    """How many of so many requests, spread over the replicas, may be answered."""
    hits = [await replicas[number % len(replicas)].hit(RATE, "acme", 1) for number in range(requests)]
    return sum(wait is None for wait in hits)


@needs_redis
async def test_replicas_that_share_a_redis_take_together_what_one_would(redis: Redis, patient: None) -> None:
    shared = [Shared(redis.url) for _ in range(3)]
    replicas = [Rates(each) for each in shared]
    assert 95 <= await taken(replicas, 300) <= 105
    assert await replicas[0].hit(RATE, "acme", 1) in range(1, 3601)
    assert await replicas[0].hit(RATE, "other", 60) is None
    assert await replicas[1].hit(RATE, "other", 60) is not None  # all of a batch or none
    assert await replicas[2].hit(RATE, "other", 40) is None
    for each in shared:
        await each.close()


async def test_without_a_redis_each_replica_counts_by_itself() -> None:
    assert await taken([Rates() for _ in range(3)], 400) == 300


@needs_redis
async def test_a_redis_that_fails_refuses_nobody_and_counts_again_when_it_is_back(
    redis: Redis, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.shared._PAUSE_S", 0.2)
    shared = Shared(redis.url)
    rates = Rates(shared)
    assert await taken([rates], 100) == 100
    redis.stop()
    assert await taken([rates], 200) == 100  # by itself, from nothing
    assert sum("by each replica alone" in line for line in caplog.messages) == 1
    redis.start()
    await asyncio.sleep(0.3)
    caplog.set_level("INFO")
    assert await taken([rates], 120) == 100
    assert any("limits are shared" in line for line in caplog.messages)
    await shared.close()


@needs_redis
async def test_two_services_hold_a_tenant_to_one_rate(
    redis: Redis, patient: None, fake_adapters: Path, tmp_path: Path
) -> None:
    keys = write(tmp_path / "keys.json", {"acme": {"rate": "20/hour"}})
    settings = Settings(adapters=str(fake_adapters), keys=keys, rates_redis=redis.url)

    async def ask(client: httpx.AsyncClient) -> int:
        body = {"question": "what?"}
        return (await client.post("/v1/vqa", json=body, headers=bearer("acme"))).status_code

    async with serving(settings, FakeEngine()) as one, serving(settings, FakeEngine()) as two:
        statuses = await asyncio.gather(*(ask(each.client) for each in (one, two) * 20))
    assert sorted(statuses) == [200] * 20 + [429] * 20


def test_what_is_no_redis_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="rates_redis"):
        Settings(rates_redis="http://redis")
