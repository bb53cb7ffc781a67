"""How often each tenant may still ask: counted in this process, or in a Redis, where replicas count together."""

import logging
import math
import time

from limits import RateLimitItem
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import StorageError

# A request waits so long for Redis, and no request asks it again so soon after it failed.
_PATIENCE_S, _PAUSE_S = 1.0, 2.0

log = logging.getLogger(__name__)


class Rates:
    """Counts of requests by name, over sliding windows.

    While the Redis at `url` fails, each replica counts by itself: callers are served, and may ask that much more.
    """

    def __init__(self, url: str | None = None) -> None:
        self._here = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._redis = url and RedisStorage(
            f"async+{url}",
            wrap_exceptions=True,
            implementation="redispy",
            key_prefix="manylens",
            socket_timeout=_PATIENCE_S,
            socket_connect_timeout=_PATIENCE_S,
        )
        self._shared = SlidingWindowCounterRateLimiter(self._redis) if self._redis else None
        self._again = -math.inf  # when Redis may be asked, on the monotonic clock

    async def hit(self, rate: RateLimitItem, name: str, cost: int) -> int | None:
        """Count `cost` requests, all or none; returns None, or the seconds after which there is room again."""
        if self._shared is not None and time.monotonic() >= self._again:
            try:
                wait_s = await _hit(self._shared, rate, name, cost)
            except StorageError as error:
                if self._again == -math.inf:
                    log.error("rates are counted by each replica alone, until Redis answers: %s", error.storage_error)
                self._again = time.monotonic() + _PAUSE_S
            else:
                if self._again != -math.inf:
                    log.info("Redis answers again: rates are shared")
                self._again = -math.inf
                return wait_s
        return await _hit(self._here, rate, name, cost)

    async def close(self) -> None:
        """Close the connections to Redis."""
        if self._redis:
            await self._redis.bridge.get_connection().aclose()  # type: ignore[attr-defined]


async def _hit(limiter: SlidingWindowCounterRateLimiter, rate: RateLimitItem, name: str, cost: int) -> int | None:
    if await limiter.hit(rate, name, cost=cost):
        return None
    stats = await limiter.get_window_stats(rate, name)
    return max(1, math.ceil(stats.reset_time - time.time()))
