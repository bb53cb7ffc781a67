"""The Redis in which replicas count together; while it fails nobody waits for it, and log and metrics say so."""

import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from limits.aio.storage import RedisStorage
from limits.errors import StorageError
from prometheus_client import Gauge

T = TypeVar("T")

# Seconds that one call to Redis may take, and seconds after a failure in which it is not called.
_PATIENCE_S, _PAUSE_S = 1.0, 2.0

log = logging.getLogger(__name__)


class Alone(Exception):
    """Redis fails, or failed within the last two seconds: this replica counts by itself."""


class Shared:
    """A connection pool to one Redis; the gauge `alone` is 1 while it fails, else 0."""

    def __init__(self, url: str, alone: Gauge | None = None) -> None:
        from redis.exceptions import RedisError  # of an extra, which the option asks for

        self.storage = RedisStorage(
            f"async+{url}",
            wrap_exceptions=True,
            implementation="redispy",
            key_prefix="manylens",
            socket_timeout=_PATIENCE_S,
            socket_connect_timeout=_PATIENCE_S,
        )
        self._faults: tuple[type[Exception], ...] = (StorageError, RedisError, OSError)
        self._alone = alone
        self._again = -math.inf  # when it may be asked, on the monotonic clock

    @property
    def client(self) -> Any:
        """redis-py's client (redis.asyncio.Redis)."""
        return self.storage.bridge.get_connection()  # type: ignore[attr-defined]

    async def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """Await `work`, which calls Redis, and return what it returns.

        Raises:
            Alone: the call failed, or the last one did within two seconds and `work` was not called.
        """
        if time.monotonic() < self._again:
            raise Alone
        try:
            found = await work()
        except self._faults as error:
            if self._again == -math.inf:
                why = error.storage_error if isinstance(error, StorageError) else error
                log.error("Redis fails: tenants' limits are counted by each replica alone until it answers: %s", why)
            self._again = time.monotonic() + _PAUSE_S
            self._tell(1)
            raise Alone from error
        if self._again != -math.inf:
            log.info("Redis answers again: tenants' limits are shared")
            self._tell(0)
        self._again = -math.inf
        return found

    async def close(self) -> None:
        """Close the connections."""
        await self.client.aclose()

    def _tell(self, alone: int) -> None:
        if self._alone is not None:
            self._alone.set(alone)
