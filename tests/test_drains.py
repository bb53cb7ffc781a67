"""Twenty drains under load: replicas are told to stop, one after the other, and started again; no request is lost.

Each replica is the service on the fake engine in a process of its own, forked from one that has imported it. Clients
keep their connections, and reach them by themselves or through HAProxy (it asks /readyz) or nginx (it goes by 503).
"""

import asyncio
import contextlib
import multiprocessing
import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import httpx
import pytest

from loadtest import fake_service
from tests.test_http_edge import QUESTION

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

DRAINS = 20
CLIENTS = 8
STEP_S = 0.01
LAME_DUCK_S = 3.0  # over HAProxy's and a client's looks at /readyz
OPTIONS = ("--step-s", str(STEP_S), "--lame-duck-s", str(LAME_DUCK_S), "--drain-s", "20", "--log-level", "error")

_forked = multiprocessing.get_context("forkserver")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def serve(port: int) -> None:
    raise SystemExit(fake_service.main(["--port", str(port), *OPTIONS]))


class Replica:
    """One port, behind which there is a service most of the time."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.statuses: list[int | None] = []
        self.start()

    def start(self) -> None:
        self.process = _forked.Process(target=serve, args=(self.port,))
        self.process.start()

    async def ready(self) -> None:
        async with httpx.AsyncClient() as client, asyncio.timeout(120):
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get(f"{self.url}/readyz")).is_success:
                        return
                await asyncio.sleep(0.05)

    async def restart(self) -> None:
        assert self.process.pid is not None
        self.process.terminate()
        await asyncio.to_thread(self.process.join, 60)
        self.statuses.append(self.process.exitcode)
        self.start()
        await self.ready()


@pytest.fixture
async def replicas() -> AsyncGenerator[tuple[Replica, Replica], None]:
    _forked.set_forkserver_preload(["loadtest.fake_service", "tests.test_drains"])
    pair = (Replica(), Replica())
    await asyncio.gather(*(replica.ready() for replica in pair))
    yield pair
    for replica in pair:
        replica.process.kill()
        await asyncio.to_thread(replica.process.join, 10)


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


async def drain_in_turns(replicas: tuple[Replica, Replica], urls: tuple[str, ...]) -> None:
    async with Load(urls) as load:
        await asyncio.sleep(1)
        for turn in range(DRAINS):
            await replicas[turn % 2].restart()
            await asyncio.sleep(2.5)  # until a balancer has seen that it is back
    print(f"{DRAINS} drains: {dict(load.outcomes)}, statuses {[replica.statuses for replica in replicas]}")
    assert set(load.outcomes) == {"ok"}, load.outcomes
    assert load.outcomes["ok"] > 500
    assert {status for replica in replicas for status in replica.statuses} == {0}


async def test_clients_that_know_both_replicas_lose_nothing(replicas: tuple[Replica, Replica]) -> None:
    await drain_in_turns(replicas, tuple(replica.url for replica in replicas))


def haproxy(port: int, replicas: tuple[Replica, Replica]) -> str:
    servers = "\n".join(
        f"  server r{number} 127.0.0.1:{replica.port} check inter 500ms fall 1 rise 1"
        for number, replica in enumerate(replicas)
    )
    return f"""
defaults
  mode http
  timeout connect 2s
  timeout client 60s
  timeout server 60s
  option redispatch
  retries 3
frontend in
  bind 127.0.0.1:{port}
  default_backend out
backend out
  balance roundrobin
  option httpchk GET /readyz
  http-check expect status 200
{servers}
"""


def nginx(port: int, replicas: tuple[Replica, Replica]) -> str:
    servers = "\n".join(f"    server 127.0.0.1:{replica.port} max_fails=0;" for replica in replicas)
    return f"""
daemon off;
pid nginx.pid;
error_log error.log;
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
  upstream out {{
{servers}
    keepalive 16;
  }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://out;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_next_upstream error http_503 non_idempotent;
    }}
  }}
}}
"""


@pytest.mark.parametrize(
    ("program", "configure", "command"),
    [
        ("haproxy", haproxy, ["haproxy", "-f", "balancer.conf"]),
        ("nginx", nginx, ["nginx", "-p", ".", "-c", "balancer.conf"]),
    ],
    ids=["haproxy", "nginx"],
)
async def test_clients_behind_a_balancer_lose_nothing(
    program: str,
    configure: Callable[[int, tuple[Replica, Replica]], str],
    command: list[str],
    replicas: tuple[Replica, Replica],
    tmp_path: Path,
) -> None:
    found = shutil.which(program, path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if found is None:
        pytest.skip(f"no {program} here")
    port = free_port()
    (tmp_path / "balancer.conf").write_text(configure(port, replicas))
    balancer = await asyncio.create_subprocess_exec(found, *command[1:], cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        await drain_in_turns(replicas, (f"http://127.0.0.1:{port}",))
    finally:
        balancer.terminate()
        await balancer.wait()
