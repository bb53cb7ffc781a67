"""How many requests are worked on, how many may wait, for how long, and who goes next. Knows no HTTP, no engine.

Decided before any image is decoded. Times are seconds on the running loop's clock, which is monotonic.
"""

import asyncio
import math
from collections import Counter, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from service.errors import DeadlineExceeded, Forbidden, LimitReached, Overloaded
from service.tracing import hop
from service.turns import FairQueue, Ticket
from service.types import Tenant

# Requests whose time in a slot is remembered, to judge what a deadline still allows and when to come again.
_REMEMBERED = 64
_LONGEST_RETRY_S = 60


class Admission:
    """At most `in_flight` requests hold a slot, at most `waiting` more queue for one; service/turns.py orders them."""

    def __init__(self, in_flight: int, waiting: int) -> None:
        self._in_flight, self._room = in_flight, waiting
        self._free = in_flight
        self._queue = FairQueue()
        self._turns: dict[Ticket, asyncio.Future[None]] = {}
        self._here: Counter[str] = Counter()
        self._held: deque[float] = deque(maxlen=_REMEMBERED)

    @property
    def here(self) -> int:
        """Requests that hold a slot or wait for one."""
        return self._here.total()

    @asynccontextmanager
    async def slot(
        self, tenant: Tenant, adapter: str = "", priority: int = 0, deadline: float = math.inf
    ) -> AsyncGenerator[None, None]:
        """Hold a slot; leaving, by whatever way, frees it. `deadline` is a time on the loop's clock.

        Raises:
            Forbidden: more priority than its tenant may ask for.
            LimitReached: its tenant has as many requests here as it may.
            Overloaded: as many requests wait as may, at once or pushed out by one of a shorter queue.
            DeadlineExceeded: its turn did not come in time.
        """
        if priority > tenant.priority:
            raise Forbidden(f"priority is {tenant.priority} at most for your key")
        if tenant.concurrency is not None and self._here[tenant.name] >= tenant.concurrency:
            raise LimitReached(f"{tenant.concurrency} of your requests are here already: wait for one to end")
        self._here[tenant.name] += 1
        try:
            with hop("admission"):
                await self._wait(Ticket(tenant.name, adapter, priority), deadline)
            try:
                began = _now()
                yield
                self._held.append(_now() - began)
            finally:
                self._free += 1
                self._hand_out()
        finally:
            self._here[tenant.name] -= 1
            if not self._here[tenant.name]:
                del self._here[tenant.name]

    async def _wait(self, ticket: Ticket, deadline: float) -> None:
        """Return when the ticket was handed a slot."""
        turn = self._turns[ticket] = asyncio.get_running_loop().create_future()
        self._queue.push(ticket)
        self._hand_out()
        if len(self._queue) > self._room:
            last = self._turns[self._queue.drop(ticket)]
            if not last.done():
                last.set_exception(self._overloaded())
        try:
            # Sooner than the quickest of late no request of the queue can be done with.
            async with asyncio.timeout_at(None if turn.done() else deadline - min(self._held, default=0.0)):
                await turn
        except BaseException as error:
            if _handed(turn):  # and left all the same, in the very step in which it was
                self._free += 1
            self._queue.remove(ticket)
            self._hand_out()
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded("too many others wait: no slot came free early enough for an answer") from error
            raise
        finally:
            del self._turns[ticket]

    def _hand_out(self) -> None:
        while self._free and self._queue:
            turn = self._turns[self._queue.take()]
            if not turn.done():  # cancelled in this very step of the loop
                self._free -= 1
                turn.set_result(None)

    def _overloaded(self) -> Overloaded:
        seconds = self._room / self._in_flight * (sum(self._held) / len(self._held) if self._held else 1.0)
        retry_after_s = min(max(1, math.ceil(seconds)), _LONGEST_RETRY_S)
        return Overloaded(f"{self._room} requests wait already: try again in {retry_after_s} s", retry_after_s)


def _handed(turn: asyncio.Future[None]) -> bool:
    return turn.done() and not turn.cancelled() and turn.exception() is None


def _now() -> float:
    return asyncio.get_running_loop().time()
