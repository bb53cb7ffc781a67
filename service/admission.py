"""How many requests are worked on and how many may wait. Decided before any image is decoded; knows no HTTP."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from service.errors import Overloaded


class Admission:
    """At most `in_flight` requests hold a slot, at most `waiting` more queue for one in order of arrival."""

    def __init__(self, in_flight: int, waiting: int) -> None:
        self._slots = asyncio.Semaphore(in_flight)
        self._room = in_flight + waiting
        self._here = 0

    @property
    def here(self) -> int:
        """Requests that hold a slot or wait for one."""
        return self._here

    @asynccontextmanager
    async def slot(self) -> AsyncGenerator[None, None]:
        """Hold a slot; leaving, by whatever way, frees it.

        Raises:
            Overloaded: as many requests wait as may.
        """
        if self._here >= self._room:
            raise Overloaded(f"{self._here} requests are here already: try again in a second")
        self._here += 1
        try:
            async with self._slots:
                yield
        finally:
            self._here -= 1
