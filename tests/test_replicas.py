"""Two and three replicas over one store, behind HAProxy and nginx: what one of them does or suffers, and the others.

Each replica is the service on the fake engine in a process of its own. tests/test_faults.py has the same changes of
releases on two real ones.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from loadtest.client import percentile
from loadtest.store.stores import files_of
from service.adapters.manifest import FILE, Manifest
from service.adapters.store import Store
from tests.balancers import BALANCERS, balancing
from tests.test_drains import Replica, drain_in_turns, serving_all
from tests.test_http_edge import QUESTION

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

POLL_S = 2.0  # as by default
CLIENTS = 12


def changed(store: Store, source: str, name: str, about: str) -> str:
    """Publish a copy of an adapter with other words in its manifest, so that it is another version; returns that."""
    files = files_of(store.stable(source))
    manifest = Manifest.model_validate_json(files[FILE]).model_copy(update={"name": name, "about": about})
    return store.publish(name, files | {FILE: manifest.model_dump_json().encode()}).version


async def release(urls: Sequence[str], store: Store) -> dict[str, float]:
    """Make every kind of change, each at the store or at one replica; the seconds until all replicas follow, by kind.

    `shapes` has to be there; in the end it is as before.
    """
    took: dict[str, float] = {}
    async with httpx.AsyncClient(timeout=60) as client:

        async def version(url: str, reference: str) -> str | None:
            response = await client.post(f"{url}/v1/vqa", json={"question": QUESTION, "adapter": reference})
            return str(response.json()["adapter"]["version"]) if response.is_success else None

        async def weight(url: str) -> float | None:
            told = (await client.get(f"{url}/v1/adapters/shapes")).raise_for_status().json()
            canary = told["aliases"].get("canary")
            return float(canary["weight"]) if canary else None

        async def gone(url: str) -> bool:
            response = await client.post(f"{url}/v1/vqa", json={"question": QUESTION, "adapter": "fresh"})
            return response.status_code == 404

        async def until_all(kind: str, seen: Callable[[str], Awaitable[bool]]) -> None:
            began = time.monotonic()
            async with asyncio.timeout(60):
                for url in urls:
                    while not await seen(url):  # noqa: ASYNC110 - it is asked over HTTP
                        await asyncio.sleep(0.02)
            took[kind] = time.monotonic() - began

        async def answers(url: str, reference: str, expected: str) -> bool:
            return await version(url, reference) == expected

        old = store.stable("shapes").version
        fresh = await asyncio.to_thread(changed, store, "shapes", "fresh", "fresh")
        await until_all("new adapter", lambda url: answers(url, "fresh", fresh))
        new = await asyncio.to_thread(changed, store, "shapes", "shapes", "newer")
        await until_all("alias flip", lambda url: answers(url, "shapes", new))
        body = {"alias": "canary", "version": old, "weight": 0.25}
        (await client.put(f"{urls[0]}/v1/adapters/shapes", json=body)).raise_for_status()

        async def shared(url: str) -> bool:
            return await weight(url) == 0.25

        await until_all("canary weight", shared)
        (await client.delete(f"{urls[0]}/v1/adapters/shapes", params={"alias": "canary"})).raise_for_status()
        (await client.post(f"{urls[-1]}/v1/adapters/shapes/rollback")).raise_for_status()
        await until_all("rollback", lambda url: answers(url, "shapes", old))
        (await client.delete(f"{urls[-1]}/v1/adapters/fresh")).raise_for_status()
        await until_all("deletion", gone)
    return took


@dataclass(frozen=True)
class Heard:
    """One answer: when it was asked for, on the monotonic clock, the seconds it took, its status, whose it is."""

    at: float
    seconds: float
    status: int
    replica: str


class Clients:
    """Ask one after the other; refused with Retry-After, a client asks again at once, as another replica may answer."""

    def __init__(self, url: str) -> None:
        self.url, self.heard = url, list[Heard]()
        self._over = False

    async def __aenter__(self) -> "Clients":
        self._tasks = [asyncio.create_task(self._ask_on()) for _ in range(CLIENTS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over = True
        await asyncio.gather(*self._tasks)

    def lost(self) -> list[Heard]:
        return [each for each in self.heard if each.status not in (200, 503)]

    def p90(self, ports: set[str], after: float = 0.0) -> float:
        """Of what replicas of these ports answered, the 90th percentile of seconds."""
        took = sorted(
            each.seconds
            for each in self.heard
            if each.status == 200 and each.replica.rpartition(":")[2] in ports and each.at >= after
        )
        assert len(took) > 50
        return percentile(took, 90)

    async def _ask_on(self) -> None:
        async with httpx.AsyncClient(timeout=30) as client:
            while not self._over:
                began, status, replica = time.monotonic(), 0, ""
                with contextlib.suppress(httpx.TransportError):
                    response = await client.post(f"{self.url}/v1/vqa", json={"question": QUESTION, "adapter": "shapes"})
                    status, replica = response.status_code, response.headers.get("x-replica", "")
                    if status == 503 and "retry-after" not in response.headers:
                        status = -1
                self.heard.append(Heard(began, time.monotonic() - began, status, replica))


@pytest.fixture
def store(fake_adapters: Path, tmp_path: Path) -> Store:
    shutil.copytree(fake_adapters, tmp_path / "store")
    return Store(tmp_path / "store", tmp_path / "own")


@contextlib.asynccontextmanager
async def over(store: Store, tmp_path: Path, *options: Sequence[str]) -> AsyncGenerator[list[Replica], None]:
    """As many replicas over the store as there are sequences of options."""
    own = (
        *("--adapters", str(store.root), "--as-it-is", "true", "--adapters-poll-s", str(POLL_S)),
        *("--adapters-cache", str(tmp_path / "own")),
    )
    async with serving_all(*((*own, *each) for each in options)) as replicas:
        yield replicas


@pytest.mark.parametrize("count", [2, 3])
async def test_every_change_of_a_release_is_seen_by_all_within_two_polls(
    store: Store, tmp_path: Path, count: int
) -> None:
    async with over(store, tmp_path, *[()] * count) as replicas:
        took = await release([replica.url for replica in replicas], store)
    print({kind: round(seconds, 2) for kind, seconds in took.items()})
    assert max(took.values()) <= 2 * POLL_S, took


@pytest.mark.parametrize("program", BALANCERS)
@pytest.mark.parametrize("count", [2, 3])
async def test_a_replica_killed_loses_only_what_it_held(store: Store, tmp_path: Path, program: str, count: int) -> None:
    async with (
        over(store, tmp_path, *[()] * count) as replicas,
        balancing(program, tmp_path, [replica.port for replica in replicas]) as url,
        Clients(url) as clients,
    ):
        await asyncio.sleep(2)
        killed = time.monotonic()
        replicas[0].process.kill()
        await asyncio.sleep(3)
        assert sum(each.at > killed + 0.5 and each.status == 200 for each in clients.heard) > 100
    lost = clients.lost()
    print(f"{program}: lost {len(lost)} of {len(clients.heard)}")
    assert len(lost) <= CLIENTS
    assert all(each.at <= killed + 0.1 for each in lost)


@pytest.mark.parametrize("program", BALANCERS)
async def test_a_rolling_restart_of_three_loses_nothing(store: Store, tmp_path: Path, program: str) -> None:
    async with (
        over(store, tmp_path, (), (), ()) as replicas,
        balancing(program, tmp_path, [replica.port for replica in replicas]) as url,
    ):
        await drain_in_turns(replicas, (url,), drains=3)


SLOW, FULL = ("--step-s", "0.3"), ("--in-flight", "1", "--waiting", "0")


@pytest.mark.parametrize("program", BALANCERS)
@pytest.mark.parametrize("options", [SLOW, FULL], ids=["slow", "full"])
async def test_a_slow_or_full_replica_costs_the_others_nothing(
    store: Store, tmp_path: Path, program: str, options: Sequence[str]
) -> None:
    async with over(store, tmp_path, (), (), options) as replicas:
        ports = [replica.port for replica in replicas]
        others = {str(port) for port in ports[:2]}
        async with balancing(program, tmp_path, ports[:2]) as url, Clients(url) as alone:
            await asyncio.sleep(4)
        async with balancing(program, tmp_path, ports) as url, Clients(url) as beside:
            await asyncio.sleep(4)
    print(f"{program}: p90 of the others {alone.p90(others):.3f} s alone, {beside.p90(others):.3f} s beside it")
    assert not beside.lost()
    assert beside.p90(others) <= 1.5 * alone.p90(others)


@pytest.mark.parametrize("program", BALANCERS)
async def test_a_frozen_replica_costs_the_others_nothing(store: Store, tmp_path: Path, program: str) -> None:
    patience_s = 2
    async with (
        over(store, tmp_path, (), (), ()) as replicas,
        balancing(program, tmp_path, [replica.port for replica in replicas], patience_s) as url,
    ):
        others = {str(replica.port) for replica in replicas[:2]}
        async with Clients(url) as before:
            await asyncio.sleep(4)
        pid = replicas[2].process.pid
        assert pid is not None
        async with Clients(url) as clients:
            await asyncio.sleep(1)
            frozen = time.monotonic()
            os.kill(pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(8)
            finally:
                os.kill(pid, signal.SIGCONT)
    lost = clients.lost()
    found = frozen + patience_s + 1
    print(f"{program}: lost {len(lost)} of {len(clients.heard)}; p90 {before.p90(others):.3f} s before, ", end="")
    print(f"{clients.p90(others, found):.3f} s since it was found")
    assert len(lost) <= CLIENTS  # what it held
    assert all(each.at <= found for each in lost)
    assert clients.p90(others, found) <= 1.5 * before.p90(others)
