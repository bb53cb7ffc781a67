"""One replica's life as its callers see it: whether new requests are taken, and how those under way end.

            warm.set()                leave()             close()            cut()
    STARTING ────────▶ SERVING ────────────────▶ LAME DUCK ───────▶ REFUSING ──────▶ over
        ▲  warm.clear()   │                          ▲
        └─────────────────┘                          │
        └────────────────────────────────────────────┘  leave()

Starting, a lost engine's next start included: not ready, and requests are refused (`engine_unavailable`). Lame duck:
not ready, but requests are still answered, so that whoever balances load has time to see it. Refusing: new requests are
refused (`draining`), those under way go on. Cut: those still under way end with `draining` too.
"""

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

from service.errors import Draining, EngineUnavailable, ServiceError


class Life:
    """The state drawn above, the number of requests under way, and the clocks that can end them."""

    def __init__(self) -> None:
        self.warm = asyncio.Event()
        self.leaving = self._closed = self._cut = False
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._clocks: set[asyncio.Timeout] = set()

    @property
    def unready(self) -> ServiceError | None:
        """Why load balancers should send this replica no more requests; None while they should."""
        return Draining("the service is being shut down") if self.leaving else self.refusal

    @property
    def refusal(self) -> ServiceError | None:
        """What a new request is answered; None where it is taken."""
        if self._closed:
            return Draining("the service is being shut down: ask again, another replica or the next start answers")
        if not self.warm.is_set():
            return EngineUnavailable("starting: the model or its adapters are not loaded yet")
        return None

    def leave(self) -> None:
        """Not ready from now on; requests are still answered."""
        self.leaving = True

    def close(self) -> None:
        """New requests are refused from now on."""
        self._closed = True

    def cut(self) -> None:
        """End the work inside `bounded`, save what was spared; each fails with Draining."""
        self._cut = True
        now = asyncio.get_running_loop().time()
        for clock in self._clocks:
            if not clock.expired():
                clock.reschedule(now)

    def spare(self, clock: asyncio.Timeout) -> None:
        """Let `cut` leave alone the work that `bounded` gave this clock for."""
        self._clocks.discard(clock)

    @contextmanager
    def request(self) -> Generator[None, None, None]:
        """Count one request as under way until the block ends."""
        self._under_way += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def over(self) -> None:
        """Return when no request is under way."""
        await self._idle.wait()

    @asynccontextmanager
    async def bounded(self, seconds: float | None = None) -> AsyncGenerator[asyncio.Timeout, None]:
        """Work that `cut` ends, and that may take `seconds`.

        Raises:
            Draining: it was cut.
            TimeoutError: its seconds passed.
        """
        try:
            async with asyncio.timeout(seconds) as clock:
                self._clocks.add(clock)
                try:
                    yield clock
                finally:
                    self._clocks.discard(clock)
        except TimeoutError as error:
            if self._cut and clock.expired():
                raise Draining("the service was shut down before this was done: ask again") from error
            raise
