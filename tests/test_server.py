"""The service's end, on a fake engine: the order of readiness, refusals, cuts and exit, and what signals do."""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from service.app import create_app
from service.engine.fake import FakeEngine
from service.server import Server, serve
from service.settings import Settings
from tests.conftest import CHECKPOINT, until
from tests.test_http_edge import QUESTION, assert_error
from tests.test_streaming import events

LAME_DUCK_S = 0.5


@dataclass
class Leaving:
    """A service whose end a test may begin."""

    server: Server
    engine: FakeEngine
    client: httpx.AsyncClient
    serving: "asyncio.Task[None]"

    async def ask(self, **fields: object) -> httpx.Response:
        return await self.client.post("/v1/vqa", json={"question": QUESTION} | fields)


class SlowToStart(FakeEngine):
    """Starts when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may_start = asyncio.Event()

    async def start(self) -> None:
        await self.may_start.wait()
        await super().start()


@contextlib.asynccontextmanager
async def running(
    directory: Path, engine: FakeEngine, drain_s: float = 5.0, lame_duck_s: float = LAME_DUCK_S
) -> AsyncGenerator[Leaving, None]:
    settings = Settings(adapters=str(directory), port=0, lame_duck_s=lame_duck_s, drain_s=drain_s)
    server = Server(create_app(settings, CHECKPOINT, engine), settings)
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started or serving.done())
    port = server.servers[0].sockets[0].getsockname()[1]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
        yield Leaving(server, engine, client, serving)
    server.should_exit = True
    await serving


async def warm(leaving: Leaving) -> None:
    async with asyncio.timeout(20):
        while not (await leaving.client.get("/readyz")).is_success:  # noqa: ASYNC110 - announced over HTTP alone
            await asyncio.sleep(0.01)


async def test_the_order_of_readiness_answers_refusals_and_the_end(tmp_path: Path) -> None:
    async with running(tmp_path, FakeEngine()) as leaving:
        await warm(leaving)
        assert (await leaving.ask()).headers.get("connection") != "close"
        leaving.engine.step_s = 0.6
        slow = asyncio.create_task(leaving.ask())
        await until(lambda: leaving.engine.running == 1)
        leaving.engine.step_s = 0.0
        leaving.server.leave(LAME_DUCK_S)
        await asyncio.sleep(0)
        # The lame duck: not ready, live, and answering; no connection is kept.
        assert_error(await leaving.client.get("/readyz"), 503, "draining")
        assert (await leaving.client.get("/healthz")).status_code == 200
        answered = await leaving.ask()
        assert answered.status_code == 200
        assert answered.headers["connection"] == "close"
        assert "vqa_draining 1.0" in (await leaving.client.get("/metrics")).text
        await asyncio.sleep(LAME_DUCK_S)
        # Then new ones are refused, in the shape of each face, while what is under way goes on.
        refused = await leaving.ask()
        assert_error(refused, 503, "draining")
        assert refused.headers["retry-after"]
        assert refused.headers["connection"] == "close"
        assert (await leaving.client.get("/v1/models")).json()["error"]["type"]
        assert (await leaving.client.get("/healthz")).status_code == 200
        assert not leaving.serving.done()
        last = await slow
        assert last.status_code == 200
        assert last.headers["connection"] == "close"
        await asyncio.wait_for(leaving.serving, 5)
        assert not leaving.server.failed


async def test_what_does_not_end_in_time_gets_a_typed_503_or_an_error_event(tmp_path: Path) -> None:
    async with running(tmp_path, FakeEngine(), drain_s=0.3) as leaving:
        await warm(leaving)
        leaving.engine.step_s = 0.4
        stream = asyncio.create_task(leaving.ask(stream=True))
        await until(lambda: leaving.engine.running == 1)
        await asyncio.sleep(0.5)  # its first word
        leaving.engine.step_s = 30.0
        whole = asyncio.create_task(leaving.ask())
        reader, writer = await asyncio.open_connection("127.0.0.1", leaving.client.base_url.port)
        writer.write(b"POST /v1/vqa HTTP/1.1\r\nhost: here\r\ncontent-length: 100\r\n\r\n{")  # and no more
        await until(lambda: leaving.engine.running == 2)
        began = time.monotonic()
        leaving.server.leave(0.0)
        refused = await whole
        assert time.monotonic() - began < 2
        assert_error(refused, 503, "draining")
        assert refused.headers["retry-after"]
        told = await asyncio.wait_for(reader.read(), 5)
        assert told.startswith(b"HTTP/1.1 503 ")
        assert b'"draining"' in told
        writer.close()
        *pieces, (event, data) = events((await stream).text)
        assert pieces
        assert (event, data["error"]["code"]) == ("error", "draining")
        await asyncio.wait_for(leaving.serving, 5)
        assert leaving.engine.running == 0


async def test_while_it_starts_every_route_but_the_probes_says_503_and_to_come_again(tmp_path: Path) -> None:
    engine = SlowToStart()
    async with running(tmp_path, engine) as leaving:
        for method, path in (
            ("POST", "/v1/vqa"),
            ("POST", "/v1/vqa/batch"),
            ("POST", "/v1/chat/completions"),
            ("GET", "/v1/models"),
            ("GET", "/v1/models/digits"),
            ("GET", "/v1/adapters"),
            ("PUT", "/v1/adapters/digits"),
            ("GET", "/nowhere"),
        ):
            response = await leaving.client.request(method, path, json={"question": "x", "adapter": "digits"})
            assert response.status_code == 503, path
            assert response.json()["error"]["code"] == "engine_unavailable"
            assert response.headers["retry-after"]
            assert response.headers["x-request-id"]
        for path in ("/healthz", "/metrics", "/docs", "/openapi.json"):
            assert (await leaving.client.get(path)).status_code == 200, path
        assert (await leaving.client.get("/readyz")).status_code == 503
        assert "vqa_ready 0.0" in (await leaving.client.get("/metrics")).text
        engine.may_start.set()
        await warm(leaving)
        assert (await leaving.ask(adapter="nope")).status_code == 404
        text = (await leaving.client.get("/metrics")).text
        assert "vqa_ready 1.0" in text
        assert 'vqa_build_info{version="' in text
        assert "vqa_connections 1.0" in text


async def test_again_503_and_no_404_while_a_lost_engine_is_started(tmp_path: Path) -> None:
    engine = SlowToStart()
    engine.may_start.set()
    async with running(tmp_path, engine) as leaving:
        await warm(leaving)
        engine.may_start.clear()
        engine.kill()
        await until(lambda: not leaving.server._life.warm.is_set())
        for path in ("/v1/models/digits", "/v1/adapters"):
            response = await leaving.client.get(path)
            assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_unavailable")
        engine.may_start.set()
        await warm(leaving)


async def test_told_to_stop_before_it_is_ready_it_stops_without_a_lame_duck(tmp_path: Path) -> None:
    async with running(tmp_path, SlowToStart()) as leaving:
        leaving.server.leave(30.0)
        await asyncio.wait_for(leaving.serving, 5)
        assert not leaving.server.failed


async def test_an_engine_that_cannot_start_ends_the_service_as_failed(tmp_path: Path) -> None:
    class Broken(FakeEngine):
        async def start(self) -> None:
            raise RuntimeError("no such device")

    settings = Settings(adapters=str(tmp_path), port=0)
    server = Server(create_app(settings, CHECKPOINT, Broken()), settings)
    await asyncio.wait_for(server.serve(), 10)
    assert server.failed


async def test_a_signal_before_it_listens_ends_it_too(tmp_path: Path) -> None:
    class TooEarly(Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            self.leave(LAME_DUCK_S)
            await asyncio.sleep(0.1)
            assert self.should_exit
            await super().startup(sockets)

    settings, engine = Settings(adapters=str(tmp_path), port=0), SlowToStart()
    server = TooEarly(create_app(settings, CHECKPOINT, engine), settings)
    async with asyncio.timeout(20):
        await server.serve()
    assert not server.servers[0].is_serving()


async def test_what_fails_while_it_leaves_does_not_keep_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise RuntimeError("no way out")

    async with running(tmp_path, FakeEngine()) as leaving:
        await warm(leaving)
        monkeypatch.setattr(leaving.server, "_hang_up", fail)
        leaving.server.leave(0.0)
        async with asyncio.timeout(20):
            await leaving.serving
    assert "no way out" in caplog.text


async def test_a_signal_starts_it_and_a_second_ends_the_process_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    monkeypatch.setattr("service.server.os._exit", ended.append)
    async with running(tmp_path, FakeEngine()) as leaving:
        await warm(leaving)
        os.kill(os.getpid(), signal.SIGTERM)
        assert_error(await leaving.client.get("/readyz"), 503, "draining")
        assert not ended
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0)
        assert ended == [1]
        await asyncio.wait_for(leaving.serving, 5)


async def test_ctrl_c_waits_for_no_load_balancer(tmp_path: Path) -> None:
    async with running(tmp_path, FakeEngine(), lame_duck_s=30.0) as leaving:
        await warm(leaving)
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.wait_for(leaving.serving, 5)
        assert not leaving.server.failed


async def test_a_port_that_is_taken_is_status_1(tmp_path: Path) -> None:
    async with running(tmp_path, FakeEngine()) as leaving:
        settings = Settings(adapters=str(tmp_path), port=leaving.client.base_url.port)
        app = create_app(settings, CHECKPOINT, FakeEngine())
        assert await asyncio.to_thread(serve, app, settings) == 1
