"""How many questions a tenant may still ask in a time: counted in this process, or in a Redis over all replicas."""

import math
import time
from functools import partial

from limits import RateLimitItem
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from service.shared import Alone, Shared


class Rates:
    """Counts of requests by name, over sliding windows (two fixed windows, the earlier one weighted: `limits`).

    While Redis fails, each replica counts by itself: a tenant may then ask at its rate on every replica.
    """

    def __init__(self, shared: Shared | None = None) -> None:
        self._local = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._shared = shared
        self._redis = SlidingWindowCounterRateLimiter(shared.storage) if shared else None

    async def hit(self, rate: RateLimitItem, name: str, cost: int) -> int | None:
        """Count `cost` requests of `name` if all of them are within `rate`, otherwise none of them.

        Returns None where they were counted, else the seconds, at least 1, until the window has room again.
        """
        if self._shared is not None and self._redis is not None:
            try:
                return await self._shared.call(partial(_hit, self._redis, rate, name, cost))
            except Alone:
                pass
        return await _hit(self._local, rate, name, cost)


async def _hit(limiter: SlidingWindowCounterRateLimiter, rate: RateLimitItem, name: str, cost: int) -> int | None:
    if await limiter.hit(rate, name, cost=cost):
        return None
    stats = await limiter.get_window_stats(rate, name)
    return max(1, math.ceil(stats.reset_time - time.time()))
