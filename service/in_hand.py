"""How many bytes of request bodies and fetched images are held at once. Knows no HTTP.

Bytes are taken before they are read, and given back when their request ends: until then its image is held, be it in a
queue. Whoever fits goes: a small question does not stand behind a large one that waits.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from service.errors import Overloaded

# How long bytes are waited for, and when to come again.
WAIT_S = 5.0
_RETRY_AFTER_S = 5


class InHand:
    """A budget of `total` bytes; `left` of them are free."""

    def __init__(self, total: int) -> None:
        self.total = self.left = total
        # In order of arrival.
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    async def take(self, count: int) -> None:
        """Return when `count` bytes were taken.

        Raises:
            Overloaded: there were not as many free within WAIT_S.
        """
        if count <= self.left:
            self.left -= count
            return
        place = (count, asyncio.get_running_loop().create_future())
        self._waiting.append(place)
        try:
            async with asyncio.timeout(WAIT_S):
                await place[1]
        except BaseException as error:
            if place in self._waiting:
                self._waiting.remove(place)
            elif not place[1].cancelled():  # and left all the same, in the very step in which they were handed out
                self.give(count)
            if isinstance(error, TimeoutError):
                told = f"{self.total - self.left:,} bytes of other requests are here, {self.total:,} may be"
                raise Overloaded(f"{told}: try again in {_RETRY_AFTER_S} s", _RETRY_AFTER_S) from error
            raise

    def give(self, count: int) -> None:
        """Give `count` bytes back that were taken; those who wait and fit now have them."""
        self.left += count
        for place in list(self._waiting):
            wanted, granted = place
            if wanted <= self.left:
                self._waiting.remove(place)
                if not granted.done():  # cancelled in this very step of the loop
                    self.left -= wanted
                    granted.set_result(None)

    @asynccontextmanager
    async def held(self, count: int) -> AsyncGenerator[None, None]:
        """Hold `count` bytes, or all there are if they are fewer.

        Raises: what `take` raises.
        """
        await self.take(count := min(count, self.total))
        try:
            yield
        finally:
            self.give(count)
