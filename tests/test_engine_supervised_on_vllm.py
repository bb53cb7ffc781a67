"""vLLM's engine process is killed and stopped for real, under load. Slow, as each test waits for a start."""

import asyncio
import gc
import multiprocessing
import os
import signal
import time
import weakref
from collections.abc import AsyncGenerator

import pytest

from service.app import create_app
from service.engine.vllm import VLLMEngine
from service.settings import Settings
from tests.conftest import ADAPTERS, CHECKPOINT, Running, listening, png
from tests.test_engine_supervised import restarts

# vLLM leaves the zmq context of an engine that it lost to the garbage collector, which closes it.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Unclosed context <zmq:ResourceWarning")]

CANARY_S, DEADLINE_S = 2.0, 10.0
START_S = 300.0
WHO = (None, "shapes", "digits")


@pytest.fixture(scope="module")
async def mortal() -> AsyncGenerator[Running, None]:
    """A service over an engine of its own: the one that other tests share must live."""
    settings = Settings(
        model=str(CHECKPOINT),
        adapters=str(ADAPTERS),
        port=0,
        engine_canary_s=CANARY_S,
        engine_canary_deadline_s=DEADLINE_S,
    )
    engine = VLLMEngine(CHECKPOINT, settings)
    async with listening(create_app(settings, CHECKPOINT, engine), engine) as running:
        yield running
    gc.collect()  # here, where those contexts are expected


def core() -> int | None:
    """The process id of vLLM's engine, where there is one."""
    pids = [process.pid for process in multiprocessing.active_children() if process.name.startswith("EngineCore")]
    return pids[-1] if pids else None


async def answer(running: Running, who: str | None) -> tuple[int, str]:
    fields = {"question": "what color is the shape?"} | ({"adapter": who} if who else {})
    response = await running.client.post("/v1/vqa", data=fields, files={"image": png()})
    body = response.json()
    return response.status_code, body["answer"] if response.is_success else body["error"]["code"]


async def until_status(running: Running, status: int, within_s: float) -> float:
    """Seconds until /readyz says so; /healthz says it is live all the while."""
    began = time.monotonic()
    async with asyncio.timeout(within_s):
        while (await running.client.get("/readyz")).status_code != status:
            assert (await running.client.get("/healthz")).status_code == 200
            await asyncio.sleep(0.05)
    return time.monotonic() - began


class Crowd:
    """Clients that ask without a pause; what they heard, and how long the slowest answer took."""

    def __init__(self, running: Running) -> None:
        self.running, self.heard = running, set[tuple[str | None, int, str]]()
        self.slowest_s, self._stop = 0.0, False

    async def __aenter__(self) -> "Crowd":
        self._tasks = [asyncio.create_task(self._keep_asking(who)) for who in WHO * 4]
        await asyncio.sleep(2)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)

    async def _keep_asking(self, who: str | None) -> None:
        while not self._stop:
            began = time.monotonic()
            status, said = await answer(self.running, who)
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
            self.heard.add((who, status, said))
            await asyncio.sleep(0.1 if status == 503 else 0)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("number", "noticed_s"),
    [(signal.SIGKILL, 1.0), (signal.SIGSTOP, CANARY_S + DEADLINE_S + 1.0)],
    ids=["killed", "stopped"],
)
async def test_an_engine_lost_under_load_is_noticed_in_time_and_another_answers_alike(
    mortal: Running, number: signal.Signals, noticed_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    right = {who: await answer(mortal, who) for who in WHO}
    before, lost = restarts(mortal), core()
    assert lost is not None
    async with Crowd(mortal) as crowd:
        os.kill(lost, number)
        assert await until_status(mortal, 503, noticed_s + 1) <= noticed_s
        await asyncio.sleep(1)  # a deadline of nobody: whatever was under way has failed by now
    assert {status for _, status, _ in crowd.heard} == {200, 503}
    assert crowd.slowest_s <= noticed_s + 5
    for who, status, said in crowd.heard:
        assert (status, said) in (right[who], (503, "engine_unavailable"))
    await until_status(mortal, 200, START_S)
    assert {who: await answer(mortal, who) for who in WHO} == right
    assert restarts(mortal) == before + 1
    assert core() not in (None, lost)
    told = [record.getMessage() for record in caplog.records if record.getMessage().startswith("vLLM died")]
    assert [line.startswith("vLLM died: its core ended by signal 9") for line in told] == [True] * (
        number == signal.SIGKILL
    )


@pytest.mark.timeout(900)
async def test_an_engine_killed_again_while_it_starts_is_started_again(mortal: Running) -> None:
    right = {who: await answer(mortal, who) for who in WHO}
    first = core()
    assert first is not None
    os.kill(first, signal.SIGKILL)
    async with asyncio.timeout(60):
        while (second := core()) in (None, first):  # noqa: ASYNC110 - processes tell nobody of their birth
            await asyncio.sleep(0.1)
    assert second is not None
    os.kill(second, signal.SIGKILL)
    await until_status(mortal, 200, START_S)
    assert {who: await answer(mortal, who) for who in WHO} == right
    assert "vllm:" in (await mortal.client.get("/metrics")).text


@pytest.mark.timeout(900)
async def test_an_engine_that_was_stopped_is_gone_while_python_still_runs() -> None:
    """Its destructor is called once more at the end of Python otherwise, where what it calls is None already."""
    engine = VLLMEngine(CHECKPOINT, Settings(model=str(CHECKPOINT)))
    await engine.start()
    of_vllm = weakref.ref(engine._engine)
    await engine.stop()
    assert of_vllm() is None
