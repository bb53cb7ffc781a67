"""A tenant's requests at once, counted over all replicas in a real Redis: exact, freed by a kill, and no verdict."""

import asyncio
import contextlib
import random
import shutil
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
import pytest

from service.errors import DeadlineExceeded, LimitReached
from service.metrics import Metrics
from service.places import LEASE_S, Places
from service.shared import Shared
from service.types import Tenant
from tests.redis_server import Redis, needs_redis
from tests.test_auth import bearer, write
from tests.test_drains import serving_all
from tests.test_http_edge import QUESTION

pytestmark = needs_redis
MOST = 40
ACME = Tenant("acme", concurrency=MOST)


@contextlib.asynccontextmanager
async def replicas(redis: Redis, count: int) -> AsyncGenerator[list[Places], None]:
    """What so many replicas count with, each over connections of its own."""
    shared = [Shared(redis.url) for _ in range(count)]
    found = [Places(each) for each in shared]
    renewing = [asyncio.create_task(each.renew()) for each in found]
    yield found
    for task in renewing:
        task.cancel()
    await asyncio.gather(*renewing, return_exceptions=True)
    for each in shared:
        await each.close()


def soon(seconds: float = 60.0) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_replicas_hold_a_tenant_to_one_limit_and_what_ends_gives_its_place(redis: Redis, patient: None) -> None:
    async with replicas(redis, 3) as places, contextlib.AsyncExitStack() as held:
        refused = 0
        for number in range(3 * MOST):
            try:
                await held.enter_async_context(places[number % 3].held(ACME, soon(), patient=False))
            except LimitReached:
                refused += 1
        assert refused == 2 * MOST
        await held.aclose()
        for place in places:
            async with place.held(ACME, soon(), patient=False):
                pass


@pytest.mark.slow  # a share of time, which a busy machine gives no test
async def test_under_load_there_are_never_more_and_seldom_fewer(redis: Redis, patient: None) -> None:
    """Held to 5%: of those that wait all the time the places are taken, and no more than there are."""
    here, most, seen, over = 0, 0, list[int](), False

    async def ask(places: Places, draw: random.Random) -> None:
        nonlocal here, most
        while not over:
            async with places.held(ACME, soon(), patient=True):
                here, most = here + 1, max(most, here + 1)
                await asyncio.sleep(draw.uniform(0.2, 0.4))
                here -= 1

    async with replicas(redis, 3) as places:
        asking = [asyncio.create_task(ask(places[number % 3], random.Random(number))) for number in range(3 * MOST)]
        await asyncio.sleep(1)
        for _ in range(200):
            await asyncio.sleep(0.02)
            seen.append(here)
        over = True
        await asyncio.gather(*asking)
    print(f"at most {most}, on average {sum(seen) / len(seen):.1f} of {MOST}")
    assert most <= MOST
    assert sum(seen) / len(seen) >= 0.95 * MOST


async def test_who_is_patient_waits_for_another_replica_and_not_for_ever(redis: Redis, patient: None) -> None:
    one = Tenant("one", concurrency=1)
    async with replicas(redis, 2) as (here, there):
        async with here.held(one, soon(), patient=False):
            with pytest.raises(LimitReached):
                async with there.held(one, soon(), patient=False):
                    pass
            with pytest.raises(DeadlineExceeded):
                async with there.held(one, soon(0.2), patient=True):
                    pass
            waiting = asyncio.create_task(_pass(there, one))
            await asyncio.sleep(0.2)
            assert not waiting.done()
        await asyncio.wait_for(waiting, 60)


async def _pass(places: Places, tenant: Tenant) -> None:
    async with places.held(tenant, soon(), patient=True):
        pass


async def test_a_request_that_is_cancelled_gives_its_place(redis: Redis, patient: None) -> None:
    one = Tenant("one", concurrency=1)

    async def stay() -> None:
        async with places.held(one, soon(), patient=False):
            await asyncio.sleep(60)

    async with replicas(redis, 1) as (places,):
        for moment in (0.0, 0.001, 0.05):
            task = asyncio.create_task(stay())
            await asyncio.sleep(moment)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await _pass(places, one)


async def test_what_lasts_longer_than_a_lease_keeps_its_place(
    redis: Redis, patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.places.LEASE_S", 1.0)
    monkeypatch.setattr("service.places._RENEW_S", 0.1)
    one = Tenant("one", concurrency=1)
    async with replicas(redis, 2) as (here, there), here.held(one, soon(), patient=False):
        await asyncio.sleep(2.5)
        with pytest.raises(LimitReached):
            await asyncio.wait_for(anext(aiter(_once(there, one))), 60)


async def _once(places: Places, tenant: Tenant) -> AsyncGenerator[None, None]:
    async with places.held(tenant, soon(), patient=False):
        yield


async def test_a_redis_that_is_gone_refuses_nobody_and_is_said_and_shown(
    redis: Redis, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.shared._PAUSE_S", 0.1)
    monkeypatch.setattr("service.places._RENEW_S", 0.1)
    metrics, one = Metrics(), Tenant("one", concurrency=1)
    shared = Shared(redis.url, metrics.alone)
    places = Places(shared)
    renewing = asyncio.create_task(places.renew())
    async with places.held(one, soon(), patient=False):
        redis.stop()
        await _pass(places, one)
        assert sum("by each replica alone" in line for line in caplog.messages) == 1
        assert b"vqa_limits_alone 1.0" in metrics.exposition(named=False)
        redis.start()  # and it has forgotten everything
        async with asyncio.timeout(60):
            while b"vqa_limits_alone 0.0" not in metrics.exposition(named=False):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.05)
        with pytest.raises(LimitReached):
            await anext(aiter(_once(places, one)))
    renewing.cancel()
    await shared.close()


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_what_a_replica_held_is_free_again_within_a_lease_of_its_kill(
    redis: Redis, fake_adapters: Path, tmp_path: Path
) -> None:
    shutil.copytree(fake_adapters, tmp_path / "store")
    keys = write(tmp_path / "keys.json", {"acme": {"concurrency": 4}})
    own = ("--keys", str(keys), "--rates-redis", redis.url, "--adapters", str(tmp_path / "store"), "--as-it-is", "true")

    async def ask(client: httpx.AsyncClient) -> int:
        return (await client.post("/v1/vqa", json={"question": QUESTION}, headers=bearer("acme"))).status_code

    async with (
        serving_all((*own, "--step-s", "3"), own) as (slow, quick),
        httpx.AsyncClient(base_url=slow.url, timeout=60) as there,
        httpx.AsyncClient(base_url=quick.url, timeout=60) as here,
    ):
        assert await ask(here) == 200
        held = [asyncio.create_task(ask(there)) for _ in range(4)]
        await asyncio.sleep(1)
        assert not any(task.done() for task in held), [task.result() for task in held if task.done()]
        async with asyncio.timeout(20):
            while await ask(here) != 429:  # noqa: ASYNC110 - asked over HTTP
                await asyncio.sleep(0.05)
        slow.process.kill()
        killed = time.monotonic()
        async with asyncio.timeout(60):
            while await ask(here) != 200:  # noqa: ASYNC110 - asked over HTTP
                await asyncio.sleep(0.05)
        took = time.monotonic() - killed
        await asyncio.gather(*held, return_exceptions=True)
    print(f"free again after {took:.1f} s")
    assert took <= LEASE_S + 1
