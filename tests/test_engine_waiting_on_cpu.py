"""What vLLM's processes take of a core while they wait for each other."""

import multiprocessing
import time
from collections.abc import Iterator

import pytest

pytest.importorskip("vllm")

from vllm.distributed.device_communicators.shm_broadcast import SpinCondition

from service import under_way
from service.engine import waiting_on_cpu


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> SpinCondition:
    """One that read a message just now; its sockets are left out, since they are for later."""
    monkeypatch.setattr(SpinCondition, "wait", SpinCondition.wait)
    waiting_on_cpu.use_on_cpu()
    made = SpinCondition.__new__(SpinCondition)
    made.is_reader, made.last_read, made.busy_loop_s = True, time.monotonic(), 1.0
    return made


@pytest.fixture
def two_requests() -> Iterator[None]:
    """The service works on two requests."""
    with under_way.one(), under_way.one():
        yield


def _share_of_a_core(reader: SpinCondition) -> float:
    began, took = time.monotonic(), time.thread_time()
    while time.monotonic() < began + 0.3:
        reader.last_read = time.monotonic() - 0.01
        reader.wait()
    return (time.thread_time() - took) / 0.3


@pytest.mark.usefixtures("two_requests")
def test_with_two_requests_under_way_a_process_that_waits_leaves_its_core(reader: SpinCondition) -> None:
    assert _share_of_a_core(reader) < 0.5


def test_with_one_request_it_looks_at_once_again(reader: SpinCondition, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _seconds: pytest.fail("it slept"))
    with under_way.one():
        for _ in range(100):
            reader.wait()


@pytest.mark.usefixtures("two_requests")
def test_after_a_second_without_a_message_it_waits_as_vllm_does(
    reader: SpinCondition, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = list[int | None]()
    monkeypatch.setattr(waiting_on_cpu, "_as_vllm", lambda _self, timeout_ms: waited.append(timeout_ms))
    reader.wait(7)
    reader.last_read -= 1.5
    reader.wait(8)
    assert waited == [8]


def test_a_process_forked_from_this_one_sees_what_is_counted_later() -> None:
    """As vLLM's processes do: forked before the first request came."""
    context = multiprocessing.get_context("fork")
    asked, told = context.Event(), context.SimpleQueue()

    def look() -> None:
        asked.wait(10)
        told.put(under_way.requests())

    child = context.Process(target=look)
    child.start()
    before = under_way.requests()
    with under_way.one():
        asked.set()
        assert told.get() == before + 1
    child.join(10)
