"""Two kinds of work of which only one may be under way: any number of one side at once, then of the other."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class Sides:
    """Lets work in by side, first come, first in.

    Once somebody of the other side waits, newcomers of this side wait behind them. So neither side starves: whoever
    waits is let in when those who are inside, and those of the other side who waited before, have left.
    """

    def __init__(self) -> None:
        self._side, self._inside = "", 0
        self._waiting: deque[tuple[str, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def on(self, side: str) -> AsyncGenerator[None, None]:
        """Be inside on a side, when none of the other is; cancelled while waiting, it was never there."""
        await self._enter(side)
        try:
            yield
        finally:
            self._inside -= 1
            self._let_in()

    async def _enter(self, side: str) -> None:
        granted = asyncio.get_running_loop().create_future()
        self._waiting.append((side, granted))
        self._let_in()
        try:
            await granted
        except asyncio.CancelledError:
            if granted.cancelled():
                self._waiting.remove((side, granted))
            else:  # let in and cancelled in one step
                self._inside -= 1
            self._let_in()
            raise

    def _let_in(self) -> None:
        """Let in everybody of the side whose turn it is: the one inside while nobody else waits, else the first's."""
        if not self._waiting:
            return
        first = self._waiting[0][0]
        if self._inside and first != self._side:
            return
        self._side, staying = first, deque[tuple[str, asyncio.Future[None]]]()
        for side, granted in self._waiting:
            if side == first and not granted.cancelled():  # a cancelled one removes itself
                self._inside += 1
                granted.set_result(None)
            else:
                staying.append((side, granted))
        self._waiting = staying
