"""vLLM's processes on a CPU sleep while they wait for each other, and leave the core to whoever has work.

The engine's core and its worker hand each other each step through shared memory (vLLM 0.32's
distributed/device_communicators/shm_broadcast.py). Who waits looks again and again, for a second after the last
message, and only yields in between: a whole core, taken from the gateway and from the threads that decode photographs.
vLLM calls this through its `vllm.general_plugins` entry points in each of its processes; on a GPU it changes nothing.

Going over to vLLM's own idle mode sooner is no way out: now and then it misses a message, and a step waits for seconds.
"""

import time

from vllm.distributed.device_communicators.shm_broadcast import SpinCondition
from vllm.platforms import current_platform

# A sleep is this share of what has been waited so far, so a message is found at most so much later; in seconds.
_SHARE, _SHORTEST_S, _LONGEST_S = 1 / 8, 50e-6, 2e-3


_idle = SpinCondition.wait


def use_on_cpu() -> None:
    """Let vLLM's processes sleep between two looks where vLLM runs on a CPU."""
    if current_platform.is_cpu():
        SpinCondition.wait = wait


def wait(self: SpinCondition, timeout_ms: int | None = None) -> None:
    """Sleep, and return to look again; after a second without a message wait for one, as vLLM does."""
    waited = time.monotonic() - self.last_read
    if waited <= self.busy_loop_s:
        time.sleep(min(max(waited * _SHARE, _SHORTEST_S), _LONGEST_S))
    else:
        _idle(self, timeout_ms)
