"""A loop whose clock jumps to the next timer, so that hours of waiting pass at once and always the same way."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Time stands still while anything is ready to run, and then is that of the next timer."""

    _seconds = 0.0

    def time(self) -> float:
        return self._seconds

    def _run_once(self) -> None:
        ready, timers = self._ready, self._scheduled  # type: ignore[attr-defined]
        if not ready and timers:
            self._seconds = max(self._seconds, timers[0]._when)
        super()._run_once()  # type: ignore[misc]


def simulate(scenario: Coroutine[Any, Any, T]) -> T:
    """Run to the end in simulated time."""
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        return runner.run(scenario)
