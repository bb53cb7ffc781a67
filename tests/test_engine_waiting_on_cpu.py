"""What vLLM's processes take of a core while they wait for each other."""

import time

import pytest

pytest.importorskip("vllm")

from vllm.distributed.device_communicators.shm_broadcast import SpinCondition

from service.engine import waiting_on_cpu


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> SpinCondition:
    """One that read a message just now; its sockets are left out, since they are for later."""
    monkeypatch.setattr(SpinCondition, "wait", SpinCondition.wait)
    waiting_on_cpu.use_on_cpu()
    made = SpinCondition.__new__(SpinCondition)
    made.is_reader, made.last_read, made.busy_loop_s = True, time.monotonic(), 1.0
    return made


def test_a_process_that_waits_for_the_next_step_leaves_the_core_to_others(reader: SpinCondition) -> None:
    began, took = time.monotonic(), time.thread_time()
    while time.monotonic() < began + 0.3:
        reader.last_read = time.monotonic() - 0.01
        reader.wait()
    assert time.thread_time() - took < 0.15


def test_after_a_second_without_a_message_it_waits_as_vllm_does(
    reader: SpinCondition, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = list[int | None]()
    monkeypatch.setattr(waiting_on_cpu, "_idle", lambda _self, timeout_ms: waited.append(timeout_ms))
    reader.wait(7)
    reader.last_read -= 1.5
    reader.wait(8)
    assert waited == [8]
