"""How many requests are worked on, how many may wait, for how long, and who goes next. Knows no HTTP, no engine.

Turns are shared by what they cost, which a request says when it is done: its tokens, in units of the late average.

Decided before any image is decoded. Times are seconds on the running loop's clock, which is monotonic.
"""

import asyncio
import math
from collections import Counter, deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from service.errors import DeadlineExceeded, Forbidden, LimitReached, Overloaded
from service.places import Places
from service.tracing import hop
from service.turns import FairQueue, Ticket
from service.types import Tenant

# Requests whose time in a slot and cost are remembered: to judge what a deadline still allows, when to come again,
# and what one turn costs.
_REMEMBERED = 64
_LONGEST_RETRY_S = 60


class Admission:
    """At most `in_flight` requests hold a slot, at most `waiting` more queue for one; service/turns.py orders them.

    `places` hold tenants to their `concurrency` over all replicas, after what this one holds them to.
    """

    def __init__(self, in_flight: int, waiting: int, places: Places | None = None) -> None:
        self._in_flight, self._room = in_flight, waiting
        self._free = in_flight
        self._places = places or Places()
        self._queue = FairQueue()
        self._granted: dict[Ticket, asyncio.Future[None]] = {}
        self._of_tenant: Counter[str] = Counter()
        self._held: deque[float] = deque(maxlen=_REMEMBERED)
        self._spent: deque[float] = deque(maxlen=_REMEMBERED)
        # Who waits for a request of its own tenant to end, by the tenant's name.
        self._patient: dict[str, deque[asyncio.Future[None]]] = {}

    @property
    def running(self) -> int:
        """Requests that hold a slot."""
        return self._in_flight - self._free

    @property
    def waiting(self) -> int:
        """Requests that wait for one."""
        return len(self._queue)

    @property
    def requests(self) -> int:
        """Requests that hold a slot or wait for one."""
        return self._of_tenant.total()

    @asynccontextmanager
    async def slot(
        self,
        tenant: Tenant,
        adapter: str = "",
        priority: int = 0,
        deadline: float = math.inf,
        patient: bool = False,
        first: Callable[[], Awaitable[None]] | None = None,
    ) -> AsyncGenerator[Callable[[float], None], None]:
        """Hold a slot until the block ends; `deadline` is a time on the loop's clock.

        A `patient` request waits for its tenant's own requests to end where others are refused. `first` is awaited once
        the request counts as its tenant's, and before it waits for a slot. What is yielded is to be called with what
        the request did cost, in tokens; without, it cost what requests do on average.

        Raises:
            Forbidden: more priority than its tenant may ask for.
            LimitReached: its tenant has as many requests that run or wait as it may.
            Overloaded: as many requests wait as may, at once or pushed out by one of a shorter queue.
            DeadlineExceeded: its turn did not come in time.
        """
        if priority > tenant.priority:
            raise Forbidden(f"priority is {tenant.priority} at most for your key")
        if first is not None and self._crowds(tenant):
            raise self._overloaded()
        await self._arrive(tenant, deadline, patient)
        try:
            async with self._places.held(tenant, deadline, patient):
                if first is not None:
                    await first()
                ticket = Ticket(tenant.name, adapter, priority)
                with hop("admission"):
                    await self._wait(ticket, deadline)
                try:
                    began = _now()
                    yield partial(self._settle, ticket)
                    self._held.append(_now() - began)
                finally:
                    self._free += 1
                    self._hand_out()
        finally:
            self._depart(tenant)

    @property
    def full(self) -> bool:
        """Whether all slots and all places in the queue are taken: a request is then refused, or pushes another out."""
        return not self._free and len(self._queue) >= self._room

    def turn_away(self, tenant: Tenant, adapter: str, priority: int) -> None:
        """Refuse a request that `slot`, without `first`, would refuse at once for want of room; otherwise do nothing.

        Raises:
            Overloaded: the newcomer itself would be pushed out.
        """
        ticket = Ticket(tenant.name, adapter, priority)
        limited = tenant.concurrency is not None or priority > tenant.priority
        if self.full and not limited and not self._queue.spares(ticket):
            # As `_wait` does: that somebody comes tells the queue who floods it.
            self._queue.push(ticket)
            self._queue.drop(ticket)
            raise self._overloaded()

    def _crowds(self, tenant: Tenant) -> bool:
        """Whether there is no room, and its tenant has no fewer requests than others and would lose one of its own."""
        full = self.requests >= self._in_flight + self._room
        return full and self._of_tenant[tenant.name] * len(self._of_tenant) >= self.requests

    async def _arrive(self, tenant: Tenant, deadline: float, patient: bool) -> None:
        """Count the request as one of its tenant's, once the tenant's `concurrency` allows that."""
        waiting = self._patient.get(tenant.name)
        if tenant.concurrency is None or (not waiting and self._of_tenant[tenant.name] < tenant.concurrency):
            self._of_tenant[tenant.name] += 1
            return
        if not patient:
            raise LimitReached(f"{tenant.concurrency} of your requests are here already: wait for one to end")
        waiting = self._patient.setdefault(tenant.name, deque())
        waiting.append(granted := asyncio.get_running_loop().create_future())
        try:
            async with asyncio.timeout_at(deadline):
                await granted
        except BaseException as error:
            if _handed(granted):  # and left all the same, in the very step in which it was
                self._depart(tenant)
            elif granted in waiting:
                waiting.remove(granted)
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded("too many of your own requests went before: none ended early enough") from error
            raise
        finally:
            if not self._patient.get(tenant.name, True):
                del self._patient[tenant.name]

    def _depart(self, tenant: Tenant) -> None:
        """Give the request's place to the next of its tenant that waits for one."""
        waiting = self._patient.get(tenant.name, ())
        while waiting:
            if not (granted := waiting.popleft()).done():  # cancelled in this very step of the loop
                granted.set_result(None)
                return
        self._of_tenant[tenant.name] -= 1
        if not self._of_tenant[tenant.name]:
            del self._of_tenant[tenant.name]

    def _settle(self, ticket: Ticket, tokens: float) -> None:
        usual = sum(self._spent) / len(self._spent) if self._spent else tokens
        self._spent.append(tokens)
        self._queue.settle(ticket, tokens / usual if usual else 1.0)

    async def _wait(self, ticket: Ticket, deadline: float) -> None:
        """Return when the ticket was handed a slot."""
        granted = self._granted[ticket] = asyncio.get_running_loop().create_future()
        self._queue.push(ticket)
        self._hand_out()
        if len(self._queue) > self._room:
            last = self._granted[self._queue.drop(ticket)]
            if not last.done():
                last.set_exception(self._overloaded())
        try:
            # Sooner than the quickest of late no request of the queue can be done with.
            async with asyncio.timeout_at(None if granted.done() else deadline - min(self._held, default=0.0)):
                await granted
        except BaseException as error:
            if _handed(granted):  # and left all the same, in the very step in which it was
                self._free += 1
            self._queue.remove(ticket)
            self._hand_out()
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded("too many others wait: no slot came free early enough for an answer") from error
            raise
        finally:
            del self._granted[ticket]

    def _hand_out(self) -> None:
        while self._free and self._queue:
            granted = self._granted[self._queue.take()]
            if not granted.done():  # cancelled in this very step of the loop
                self._free -= 1
                granted.set_result(None)

    def _overloaded(self) -> Overloaded:
        seconds = self._room / self._in_flight * (sum(self._held) / len(self._held) if self._held else 1.0)
        retry_after_s = min(max(1, math.ceil(seconds)), _LONGEST_RETRY_S)
        return Overloaded(f"{self._room} requests wait already: try again in {retry_after_s} s", retry_after_s)


def _handed(granted: asyncio.Future[None]) -> bool:
    return granted.done() and not granted.cancelled() and granted.exception() is None


def _now() -> float:
    return asyncio.get_running_loop().time()
