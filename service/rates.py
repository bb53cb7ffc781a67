"""How often each tenant may still ask: counted in this process, or in a Redis, where replicas count together."""

import math
import time
from functools import partial

from limits import RateLimitItem
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from service.shared import Alone, Shared


class Rates:
    """Counts of requests by name, over sliding windows.

    While Redis fails, each replica counts by itself: callers are served, and may ask that much more.
    """

    def __init__(self, shared: Shared | None = None) -> None:
        self._here = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._shared = shared
        self._there = SlidingWindowCounterRateLimiter(shared.storage) if shared else None

    async def hit(self, rate: RateLimitItem, name: str, cost: int) -> int | None:
        """Count `cost` requests, all or none; returns None, or the seconds after which there is room again."""
        if self._shared is not None and self._there is not None:
            try:
                return await self._shared.ask(partial(_hit, self._there, rate, name, cost))
            except Alone:
                pass
        return await _hit(self._here, rate, name, cost)


async def _hit(limiter: SlidingWindowCounterRateLimiter, rate: RateLimitItem, name: str, cost: int) -> int | None:
    if await limiter.hit(rate, name, cost=cost):
        return None
    stats = await limiter.get_window_stats(rate, name)
    return max(1, math.ceil(stats.reset_time - time.time()))
