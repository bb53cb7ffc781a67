"""What vLLM's processes take of a core while they wait for each other."""

import time

import pytest
import zmq

from service.engine import waiting_on_cpu

shm_broadcast = pytest.importorskip("vllm.distributed.device_communicators.shm_broadcast")


def test_a_process_that_waits_for_the_next_step_leaves_the_core_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shm_broadcast.SpinCondition, "wait", shm_broadcast.SpinCondition.wait)
    waiting_on_cpu.use_on_cpu()
    with zmq.Context() as context:
        reader = shm_broadcast.SpinCondition(True, context, "inproc://told")
        began, took = time.monotonic(), time.thread_time()
        while time.monotonic() < began + 0.3:
            reader.wait(0)
        took = time.thread_time() - took
        for socket in (reader.local_notify_socket, reader.write_cancel_socket, reader.read_cancel_socket):
            socket.close(linger=0)
    assert took < 0.15
