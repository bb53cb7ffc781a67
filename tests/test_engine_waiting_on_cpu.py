"""What vLLM's processes take of a core while they wait for each other."""

import time
from pathlib import Path

import pytest

pytest.importorskip("vllm")

from vllm.distributed.device_communicators.shm_broadcast import SpinCondition

from service.engine import waiting_on_cpu


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SpinCondition:
    """One that read a message just now, on two cores; its sockets are left out, since they are for later."""
    monkeypatch.setattr(SpinCondition, "wait", SpinCondition.wait)
    waiting_on_cpu.use_on_cpu()
    monkeypatch.setattr(waiting_on_cpu, "_LOAD", tmp_path / "loadavg")
    monkeypatch.setattr(waiting_on_cpu, "_CORES", 2)
    monkeypatch.setattr(waiting_on_cpu, "_wanting", 0.0)
    made = SpinCondition.__new__(SpinCondition)
    made.is_reader, made.last_read, made.busy_loop_s = True, time.monotonic(), 1.0
    return made


def _want_to_run(threads: int) -> None:
    waiting_on_cpu._LOAD.write_text(f"0.61 0.40 0.38 {threads}/412 9120\n")


def _share_of_a_core(reader: SpinCondition) -> float:
    began, took = time.monotonic(), time.thread_time()
    while time.monotonic() < began + 0.3:
        reader.last_read = time.monotonic() - 0.01
        reader.wait()
    return (time.thread_time() - took) / 0.3


def test_where_cores_are_wanted_a_process_that_waits_leaves_its_own(reader: SpinCondition) -> None:
    _want_to_run(5)
    for _ in range(100):
        waiting_on_cpu.crowded()
    assert _share_of_a_core(reader) < 0.5


def test_where_a_core_is_idle_it_looks_at_once_again(reader: SpinCondition, monkeypatch: pytest.MonkeyPatch) -> None:
    _want_to_run(2)
    monkeypatch.setattr(time, "sleep", lambda _seconds: pytest.fail("it slept"))
    for _ in range(100):
        reader.wait()


def test_a_moment_in_which_many_want_to_run_is_no_crowd(reader: SpinCondition) -> None:
    _want_to_run(2)
    for _ in range(100):
        waiting_on_cpu.crowded()
    _want_to_run(9)
    assert not waiting_on_cpu.crowded()


def test_after_a_second_without_a_message_it_waits_as_vllm_does(
    reader: SpinCondition, monkeypatch: pytest.MonkeyPatch
) -> None:
    _want_to_run(9)
    for _ in range(100):
        waiting_on_cpu.crowded()
    waited = list[int | None]()
    monkeypatch.setattr(waiting_on_cpu, "_as_vllm", lambda _self, timeout_ms: waited.append(timeout_ms))
    reader.wait(7)
    reader.last_read -= 1.5
    reader.wait(8)
    assert waited == [8]
