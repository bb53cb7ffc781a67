"""vLLM's processes on a CPU leave the core to whoever has work while they wait for each other.

The engine's core and its worker hand each other each step through shared memory (vLLM 0.32's
distributed/device_communicators/shm_broadcast.py). Who waits looks again and again, for a second after the last
message, and only yields in between: a whole core, taken from the gateway and from the threads that decode photographs.
Here it sleeps between two looks while the service works on more than one request. With one alone it goes on as vLLM
does, since little else wants the core and waking from a sleep takes longer than a look. vLLM calls this through
its `vllm.general_plugins` entry points in each of its processes; on a GPU it changes nothing.

Going over to vLLM's own idle mode sooner is no way out: now and then it misses a message, and a step waits for seconds.
"""

import time

from vllm.distributed.device_communicators.shm_broadcast import SpinCondition
from vllm.platforms import current_platform

from service import under_way

# A sleep is this share of what has been waited so far, so a message is found at most so much later; in seconds.
_SHARE, _SHORTEST_S, _LONGEST_S = 1 / 8, 50e-6, 2e-3

_as_vllm = SpinCondition.wait


def use_on_cpu() -> None:
    """Let vLLM's processes give way while they wait, where vLLM runs on a CPU."""
    if current_platform.is_cpu():
        SpinCondition.wait = wait


def wait(self: SpinCondition, timeout_ms: int | None = None) -> None:
    """Return to look again, after a sleep where several requests are under way.

    With one, and after a second without a message, do as vLLM does.
    """
    waited = time.monotonic() - self.last_read
    if waited <= self.busy_loop_s and under_way.requests() > 1:
        time.sleep(min(max(waited * _SHARE, _SHORTEST_S), _LONGEST_S))
    else:
        _as_vllm(self, timeout_ms)
