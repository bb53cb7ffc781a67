"""An Engine over another one that may die or hang: whatever is asked fails at once then, and it is started again.

Knows nothing of what is asked: who is told of a lost engine, and what a new one needs, is the caller's.
"""

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, TypeVar, TypeVarTuple

from service.engine import Engine
from service.errors import EngineUnavailable
from service.metrics import Metrics
from service.pace import Pace
from service.settings import Settings
from service.types import Adapter, Continuations, Delta, Query, Scores, TokenIds

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Work = Callable[[], Coroutine[Any, Any, None]]

# How often an engine is asked whether it is alive: it does not report its own end.
LOOK_S = 0.1
# The canary is asked this share of its time early, at most EARLIEST_S: so that the refusals that follow reach a client
# within the canary's time and its deadline, although the wait, the verdict and their way to the client take a while.
EARLY, EARLIEST_S = 0.1, 0.2
# The first start is at once; those after a start that failed, or an engine that did not live so long, are not.
STEADY_S = 60.0
LONGEST_PAUSE_S = 60.0

log = logging.getLogger(__name__)


class Supervised:
    """Passes everything on to an engine while there is one; `supervise` sees to it that there is."""

    def __init__(self, engine: Engine, canary: Query, settings: Settings, metrics: Metrics) -> None:
        """`canary` is asked of an engine that nothing was heard of; its first token is waited for."""
        self._engine, self._canary, self._settings, self._metrics = engine, canary, settings, metrics
        self.pace = Pace(settings)
        self._fault = "the engine is not running yet"
        # The clocks of the calls to the engine under way: a clock that is set to now ends its call. A new engine has a
        # new set; None: there is no engine.
        self._calls: set[asyncio.Timeout] | None = None
        self._heard = -math.inf
        self.heard: Callable[[], None] = lambda: None
        engine.heard = self._hear
        self._lost_at: float | None = None

    @property
    def max_model_len(self) -> int | None:
        """The context of the engine, in tokens; None while there is no engine."""
        return self._engine.max_model_len

    @property
    def build(self) -> str:
        """The build of the engine below; see Engine.build."""
        return self._engine.build

    async def start(self) -> None:
        """Start the engine below; from then on it may be asked."""
        await self._engine.start()
        self._calls = set()
        self._hear()

    async def stop(self) -> None:
        """Fail everything under way with EngineUnavailable, then stop the engine below."""
        self._fail("the engine is stopped")
        await self._engine.stop()

    async def load(self, adapter: Adapter) -> None:
        """Load an adapter; raises EngineUnavailable as soon as the engine is found to be lost."""
        await self._call(self._engine.load, adapter)

    async def unload(self, adapter: Adapter) -> None:
        """Unload an adapter; raises EngineUnavailable as soon as the engine is found to be lost."""
        await self._call(self._engine.unload, adapter)

    async def generate(self, query: Query) -> AsyncGenerator[Delta, None]:
        """The deltas of the engine below; raises EngineUnavailable as soon as it is lost, between two deltas too."""
        async with aclosing(self._engine.generate(query)) as deltas:
            while (delta := await self._call(_next, deltas)) is not None:
                self._hear()
                yield delta

    async def score(self, query: Query) -> Scores:
        """The scores of the engine below; raises EngineUnavailable as soon as it is found to be lost."""
        scores = await self._call(self._engine.score, query)
        self._hear()
        return scores

    async def extend(self, query: Query, said: Sequence[TokenIds], count: int) -> Continuations:
        """The next tokens of the engine below; raises EngineUnavailable as soon as it is found to be lost."""
        found = await self._call(self._engine.extend, query, said, count)
        self._hear()
        return found

    async def check(self) -> None:
        """Raise EngineUnavailable while there is no engine, or where the engine below does."""
        if self._calls is None:
            raise EngineUnavailable(self._fault)
        await self._engine.check()

    def check_restarts(self) -> None:
        """Raise EngineUnavailable when there has been no engine for over `engine_lost_s` seconds, restarts and all."""
        if self._lost_at is not None and (gone_s := _now() - self._lost_at) > self._settings.engine_lost_s:
            raise EngineUnavailable(f"there has been no engine for {gone_s:.0f} s: {self._fault}")

    async def supervise(self, forget: Work, renew: Work) -> None:
        """Start the engine again whenever it died or hangs; never returns.

        `forget` is awaited when an engine is lost and all that was asked of it has been failed, `renew` when another
        has started; the engine counts as lost until that returns.
        """
        failures, fault = 0, await self._end()
        while True:
            log.error("the engine is lost: %s", fault)
            self._lost_at = _now() if self._lost_at is None else self._lost_at
            self._fail(f"{fault}; it is being started again")
            await forget()
            await asyncio.sleep(_pause(failures))
            if again := await self._start_again(renew):
                failures, fault = failures + 1, again
                continue
            began = _now()
            fault = await self._end()
            failures = failures + 1 if _now() - began < STEADY_S else 0

    async def _start_again(self, renew: Work) -> str | None:
        """What is wrong with the new engine, if something is."""
        try:
            await self._engine.stop()
            await self.start()
            self._metrics.engine_restarts.inc()
            fault = await _first(self._end(), renew())
        except Exception as error:  # engines fail to start in their own words
            log.error("the engine does not start: %s", error or repr(error))
            log.debug("in full:", exc_info=True)
            return f"it does not start ({error!r})"
        if fault is None:
            self._lost_at = None
            log.info("the engine is back")
        return fault

    async def _end(self) -> str:
        """Return what is wrong with the engine as soon as something is."""
        return await _first(self._death(), self._silence())

    async def _death(self) -> str:
        while True:
            try:
                await self._engine.check()
            except EngineUnavailable as error:
                return error.message
            await asyncio.sleep(LOOK_S)

    async def _silence(self) -> str:
        """No canary is asked where others hear from the engine: behind a long queue it would call a busy one dead."""
        every_s, deadline_s = self._settings.engine_canary_s, self.pace.canary_deadline_s
        every_s -= min(EARLY * every_s, EARLIEST_S)
        while True:
            began = _now()
            if (early_s := self._heard + every_s - began) > 0:
                await asyncio.sleep(early_s)
                continue
            try:
                if not await _within(self._answer_canary(), deadline_s) and self._heard < began:
                    return f"the engine said nothing for {deadline_s:g} s"
            except EngineUnavailable as error:
                return error.message

    async def _answer_canary(self) -> None:
        async with aclosing(self.generate(self._canary)) as deltas:
            await anext(deltas)

    async def _call(self, call: Callable[[*Ts], Awaitable[T]], *about: *Ts) -> T:
        """Await `call(*about)`, a method of the engine, and return what it returns.

        Raises:
            EngineUnavailable: there is no engine, or it was lost before the call ended.
        """
        await self.check()
        calls = self._calls
        assert calls is not None  # for the type checker: check would have raised
        try:
            async with asyncio.timeout(None) as clock:
                calls.add(clock)
                try:
                    found = await call(*about)
                finally:
                    calls.discard(clock)
        except TimeoutError as error:
            if not clock.expired():
                raise
            raise EngineUnavailable(self._fault) from error
        if calls is not self._calls:  # it came in the very step in which the engine was given up
            raise EngineUnavailable(self._fault)
        return found

    def _hear(self) -> None:
        self._heard = _now()
        self.heard()
        self._metrics.engine_heard.set_to_current_time()

    def _fail(self, fault: str) -> None:
        """Have no engine: everything asked fails, and what is under way does so now."""
        calls, self._calls, self._fault = self._calls, None, fault
        for clock in calls or ():
            clock.reschedule(_now())


def _now() -> float:
    return asyncio.get_running_loop().time()


def _pause(failures: int) -> float:
    """Seconds before the next start, after so many that came to nothing."""
    return min(2.0 ** (failures - 1), LONGEST_PAUSE_S) if failures else 0.0


async def _next(deltas: AsyncGenerator[Delta, None]) -> Delta | None:
    return await anext(deltas, None)


async def _within(work: Coroutine[Any, Any, None], seconds: float) -> bool:
    """Whether `work` ends within so many seconds in which this loop ran; it is cancelled if not.

    While the loop is held up, an answer may lie here unread: such time is ours, not the engine's.
    """
    task, left, then = asyncio.create_task(work), seconds, _now()
    try:
        while not task.done() and left > 0:
            await asyncio.wait({task}, timeout=min(left, LOOK_S))
            left, then = left - min(_now() - then, 2 * LOOK_S), _now()
        if task.done():
            task.result()
        return task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _first(*works: Coroutine[Any, Any, T]) -> T:
    """What the first of `works` to end returns or raises; the others are cancelled."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return done.pop().result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
