"""Twenty drains under load: replicas are told to stop, one after the other, and started again; no request is lost.

Each replica is the service on the fake engine in a process of its own, forked from one that has imported it. Clients
keep their connections, and reach them by themselves or through HAProxy (it asks /readyz) or nginx (it goes by 503).
"""

import asyncio
import contextlib
import multiprocessing
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import httpx
import pytest

from loadtest.service import fake_service
from tests.balancers import BALANCERS, balancing, free_port
from tests.test_http_edge import QUESTION

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

DRAINS = 20
CLIENTS = 8
STEP_S = 0.01
LAME_DUCK_S = 3.0  # over HAProxy's and a client's looks at /readyz
OPTIONS = ("--step-s", str(STEP_S), "--lame-duck-s", str(LAME_DUCK_S), "--drain-s", "20", "--log-level", "error")

_forked = multiprocessing.get_context("forkserver")


def serve(port: int, options: Sequence[str]) -> None:
    raise SystemExit(fake_service.main(["--port", str(port), *options]))


class Replica:
    """One port, behind which there is a service most of the time."""

    def __init__(self, *options: str) -> None:
        """`options` come after those that all have."""
        self.port, self.options = free_port(), (*OPTIONS, *options)
        self.url = f"http://127.0.0.1:{self.port}"
        self.statuses: list[int | None] = []
        self.start()

    def start(self) -> None:
        self.process = _forked.Process(target=serve, args=(self.port, self.options))
        self.process.start()

    async def ready(self) -> None:
        async with httpx.AsyncClient() as client, asyncio.timeout(120):
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get(f"{self.url}/readyz")).is_success:
                        return
                await asyncio.sleep(0.05)

    async def asked(self) -> None:
        """Wait until it has answered a question since it was started."""
        async with httpx.AsyncClient() as client, asyncio.timeout(120):
            while True:
                if 'outcome="ok"' in (await client.get(f"{self.url}/metrics")).text:
                    return
                await asyncio.sleep(0.25)

    async def restart(self) -> None:
        assert self.process.pid is not None
        self.process.terminate()
        await asyncio.to_thread(self.process.join, 60)
        self.statuses.append(self.process.exitcode)
        self.start()
        await self.ready()


@contextlib.asynccontextmanager
async def serving_all(*options: Sequence[str]) -> AsyncGenerator[list[Replica], None]:
    """Replicas that are ready, one for each sequence of its own options; killed in the end."""
    _forked.set_forkserver_preload(["loadtest.service.fake_service", "tests.test_drains"])
    replicas = [Replica(*each) for each in options]
    try:
        await asyncio.gather(*(replica.ready() for replica in replicas))
        yield replicas
    finally:
        for replica in replicas:
            replica.process.kill()
            await asyncio.to_thread(replica.process.join, 10)


@pytest.fixture
async def replicas() -> AsyncGenerator[list[Replica], None]:
    async with serving_all((), ()) as pair:
        yield pair


class Load:
    """Clients that ask without a pause over connections that they keep; what became of each request."""

    def __init__(self, urls: tuple[str, ...]) -> None:
        self.urls, self.outcomes = urls, Counter[str]()
        self._stop = False

    async def __aenter__(self) -> "Load":
        self._tasks = [asyncio.create_task(self._ask_on(number)) for number in range(CLIENTS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)

    async def _ask_on(self, number: int) -> None:
        async with httpx.AsyncClient(timeout=30) as client:
            while not self._stop:
                self.outcomes[await self._ask(client, number)] += 1

    async def _ask(self, client: httpx.AsyncClient, number: int) -> str:
        """`ok`, or what was wrong; where a replica refuses, the next is asked, as a balancer would."""
        for turn in range(len(self.urls) * 3):
            url = self.urls[(number + turn) % len(self.urls)]
            try:
                response = await client.post(f"{url}/v1/vqa", json={"question": QUESTION})
            except httpx.ConnectError:  # nothing was sent
                continue
            except httpx.TransportError as error:
                return f"lost: {error!r}"
            if response.status_code == 503 and response.headers.get("retry-after") and len(self.urls) > 1:
                continue
            return "ok" if response.is_success else f"{response.status_code}: {response.text[:200]}"
        return "refused by all"


async def drain_in_turns(replicas: list[Replica], urls: tuple[str, ...], drains: int = DRAINS) -> None:
    async with Load(urls) as load:
        await asyncio.sleep(1)
        for turn in range(drains):
            await replicas[turn % len(replicas)].restart()
            await replicas[turn % len(replicas)].asked()  # so a balancer has seen that it is back
    print(f"{drains} drains: {dict(load.outcomes)}, statuses {[replica.statuses for replica in replicas]}")
    assert set(load.outcomes) == {"ok"}, load.outcomes
    assert load.outcomes["ok"] > 25 * drains
    assert {status for replica in replicas for status in replica.statuses} == {0}


async def test_clients_that_know_both_replicas_lose_nothing(replicas: list[Replica]) -> None:
    await drain_in_turns(replicas, tuple(replica.url for replica in replicas))


@pytest.mark.parametrize("program", BALANCERS)
async def test_clients_behind_a_balancer_lose_nothing(program: str, replicas: list[Replica], tmp_path: Path) -> None:
    async with balancing(program, tmp_path, [replica.port for replica in replicas]) as url:
        await drain_in_turns(replicas, (url,))
