"""Which adapters are loaded in the engine: no more than it has room for, the least recently used make way.

A version in use is never unloaded. When all are in use, one is closed to newcomers and leaves when its last user does,
so that a busy adapter cannot keep another out for ever.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from service.adapters.judge import Judge
from service.adapters.manifest import Manifest
from service.engine import Engine
from service.errors import AdapterRefused, EngineUnavailable
from service.metrics import Metrics
from service.types import Adapter


@dataclass(eq=False)
class _Place:
    """One adapter in the engine, or on its way there; `idle` is set when the last user of a closed place leaves."""

    adapter: Adapter
    arrival: asyncio.Task[None] | None = None
    here: bool = False
    users: int = 0
    used: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)


class Slots:
    """The engine's room for adapters. `pinned` ones never make way for others."""

    def __init__(self, engine: Engine, judge: Judge, capacity: int, metrics: Metrics) -> None:
        self._engine, self._judge, self._metrics, self.capacity = engine, judge, metrics, capacity
        self.pinned: frozenset[Adapter] = frozenset()
        self._places: dict[Adapter, _Place] = {}  # open to users
        self._leaving: dict[Adapter, asyncio.Event] = {}  # set when gone
        self._free = capacity
        self._turn, self._moving, self._changed = asyncio.Lock(), asyncio.Lock(), asyncio.Event()
        self._clock = itertools.count(1)

    def __contains__(self, adapter: Adapter) -> bool:
        """Whether it is loaded, arriving or leaving."""
        return adapter in self._places or adapter in self._leaving

    def loaded(self) -> frozenset[Adapter]:
        """The versions that can be asked at once."""
        return frozenset(adapter for adapter, place in self._places.items() if place.here)

    @asynccontextmanager
    async def use(self, adapter: Adapter) -> AsyncGenerator[None, None]:
        """Have a version in the engine, judged, until the block ends; loads it where it is not.

        Raises:
            AdapterRefused: it must not serve.
            StoreUnavailable, EngineUnavailable: it cannot be loaded now.
        """
        place = self._places.get(adapter) or self._open(adapter)
        assert place.arrival is not None
        place.users += 1
        try:
            await asyncio.shield(place.arrival)  # others wait for it too
            yield
        finally:
            place.users -= 1
            place.used = next(self._clock)
            if not place.users:
                place.idle.set()

    def pin(self, adapters: frozenset[Adapter]) -> None:
        """Say which versions never make way."""
        self.pinned = adapters
        self._changed.set()

    async def drop(self, adapter: Adapter) -> None:
        """Unload a version that no one uses; one in use stays."""
        place = self._places.get(adapter)
        if place is not None and place.here and not place.users:
            self._close(place)
            await self._leave(place)
            self._give_back()

    async def clear(self) -> None:
        """Take note that the engine lost every adapter; who uses one fails by itself, and is waited for.

        What arrives just now fails too, or finds the next engine.
        """
        lost = [place for place in self._places.values() if place.here]
        for place in lost:
            self._close(place)
        for place in lost:
            await self._leave(place)
            self._give_back()

    async def close(self) -> None:
        """End every loading under way."""
        arrivals = [place.arrival for place in self._places.values() if place.arrival and not place.arrival.done()]
        for arrival in arrivals:
            arrival.cancel()
        await asyncio.gather(*arrivals, return_exceptions=True)

    def _open(self, adapter: Adapter) -> _Place:
        place = self._places[adapter] = _Place(adapter)
        place.arrival = asyncio.create_task(self._arrive(place))
        # Its users may all have gone when it fails; that is no error no one looked at.
        place.arrival.add_done_callback(lambda task: task.cancelled() or task.exception())
        return place

    async def _arrive(self, place: _Place) -> None:
        adapter, started = place.adapter, time.perf_counter()
        try:
            manifest = await self._judge.examine(adapter)
            await self._take_room()
            try:
                await self._load(adapter, manifest)
            except BaseException:
                await self._unload(adapter)
                self._give_back()
                raise
        except BaseException as error:
            del self._places[adapter]
            if isinstance(error, AdapterRefused):
                self._judge.refuse(adapter, error)
            raise
        place.here, place.used = True, next(self._clock)
        self._changed.set()
        self._metrics.resident.labels(adapter.name, adapter.version).set(1)
        self._metrics.load_seconds.observe(time.perf_counter() - started)

    async def _take_room(self) -> None:
        async with self._turn:  # in order of arrival
            while not self._free:
                if victim := self._victim():
                    self._close(victim)
                    break
                self._changed.clear()
                await self._changed.wait()
            else:
                self._free -= 1
                return
        await self._leave(victim)

    def _victim(self) -> _Place | None:
        """An idle place before a busy one, the least recently used before others."""
        open_ = [place for place in self._places.values() if place.here and place.adapter not in self.pinned]
        return min(open_, key=lambda place: (place.users > 0, place.used), default=None)

    def _close(self, place: _Place) -> None:
        del self._places[place.adapter]
        place.idle.clear()
        self._leaving[place.adapter] = asyncio.Event()
        self._metrics.resident.remove(place.adapter.name, place.adapter.version)

    async def _leave(self, place: _Place) -> None:
        """Unload a closed place after its last user; its room is the caller's."""
        try:
            if place.users:
                await place.idle.wait()
            await self._unload(place.adapter)
        finally:
            self._leaving.pop(place.adapter).set()

    async def _load(self, adapter: Adapter, manifest: Manifest | None) -> None:
        if gone := self._leaving.get(adapter):
            await gone.wait()
        async with self._moving:
            await self._engine.load(adapter)
        await self._judge.ask(adapter, manifest)

    async def _unload(self, adapter: Adapter) -> None:
        async with self._moving:
            with suppress(EngineUnavailable):  # a dead engine holds nothing
                await self._engine.unload(adapter)

    def _give_back(self) -> None:
        self._free += 1
        self._changed.set()
