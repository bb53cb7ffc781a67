"""How many requests of a tenant run or wait at once over all replicas: its `concurrency`, counted in a Redis.

Each request that runs or waits is a member of its tenant's sorted set, whose score is when its lease ends, by Redis's
clock:

    manylens:places:TENANT    {request: end of its lease, in seconds since 1970}

Its replica prolongs the lease for as long. The places of a replica that dies are free again once their leases ended,
after LEASE_S at the latest.
"""

import asyncio
import uuid
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

from service.errors import DeadlineExceeded, LimitReached
from service.shared import Alone, Shared
from service.types import Tenant

# How long a place stays taken after its replica died, at most, and how often a living one prolongs it.
LEASE_S = 10.0
_RENEW_S = LEASE_S / 4
# Seconds between two looks of a waiting request at whether a place came free, at another replica for one.
_LOOK_S = 0.05

# KEYS: the set. ARGV: the request, the most there may be, the lease in seconds. Returns 1 where it took a place.
_TAKE = """
local now = redis.call('TIME')
now = now[1] + now[2] / 1000000
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
redis.call('EXPIRE', KEYS[1], 2 * ARGV[3])
return 1
"""
# KEYS: the set. ARGV: the lease in seconds, then requests that hold a place; one that Redis lost is added again.
_RENEW = """
local now = redis.call('TIME')
now = now[1] + now[2] / 1000000
for number = 2, #ARGV do redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[number]) end
redis.call('EXPIRE', KEYS[1], 2 * ARGV[1])
return 1
"""
# Requests whose leases one call of the script prolongs.
_AT_ONCE = 1000


class Places:
    """Gives a tenant's requests their places; without a Redis, or while it fails, every request gets one.

    How many requests one replica takes is limited by service/admission.py beside that.
    """

    def __init__(self, shared: Shared | None = None) -> None:
        self._shared = shared
        self._held: defaultdict[str, set[str]] = defaultdict(set)
        self._freeing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def held(self, tenant: Tenant, deadline: float, patient: bool) -> AsyncGenerator[None, None]:
        """Hold one of the tenant's places until the block ends.

        `deadline` is a time on the loop's clock, until which a `patient` request waits for a place.

        Raises:
            LimitReached: the tenant has as many requests at all replicas as it may, and this one is not `patient`.
            DeadlineExceeded: no place came free before the deadline of a `patient` one.
        """
        if self._shared is None or tenant.concurrency is None:
            yield
            return
        key, request = f"manylens:places:{tenant.name}", uuid.uuid4().hex
        try:
            while not await self._take(self._shared, key, request, tenant.concurrency):
                left = deadline - asyncio.get_running_loop().time()
                if not patient:
                    raise LimitReached(f"{tenant.concurrency} of your requests are here already: wait for one to end")
                if left <= 0:
                    raise DeadlineExceeded("too many of your own requests went before: none ended early enough")
                await asyncio.sleep(min(_LOOK_S, left))
            self._held[key].add(request)
            yield
        finally:
            self._held[key].discard(request)
            if not self._held[key]:
                del self._held[key]
            # A task of its own, so that a request that is cancelled here frees its place all the same.
            freeing = asyncio.create_task(self._free(self._shared, key, request))
            self._freeing.add(freeing)
            freeing.add_done_callback(self._freeing.discard)
            await asyncio.shield(freeing)

    async def renew(self) -> None:
        """Prolong the leases of this replica's requests until cancelled; without a Redis return at once."""
        while self._shared is not None:
            await asyncio.sleep(_RENEW_S)
            for key in list(self._held):
                requests = sorted(self._held.get(key, ()))
                for start in range(0, len(requests), _AT_ONCE):
                    await self._prolong(self._shared, key, requests[start : start + _AT_ONCE])

    async def _take(self, shared: Shared, key: str, request: str, most: int) -> bool:
        async def take() -> Any:
            return await shared.client.eval(_TAKE, 1, key, request, most, LEASE_S)

        try:
            return bool(await shared.call(take))
        except Alone:
            return True  # as many as this replica alone lets in

    async def _free(self, shared: Shared, key: str, request: str) -> None:
        async def free() -> Any:
            return await shared.client.zrem(key, request)

        with suppress(Alone):  # its lease ends by itself
            await shared.call(free)

    async def _prolong(self, shared: Shared, key: str, requests: list[str]) -> None:
        async def prolong() -> Any:
            return await shared.client.eval(_RENEW, 1, key, LEASE_S, *requests)

        with suppress(Alone):  # it is tried again
            await shared.call(prolong)
