"""Who needs a version's files: they stay here while a request holds them, and go when no one does."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.adapters.store import Store
from service.types import Adapter
from service.workers import Workers


class Leases:
    """Counts the requests that hold each version, and frees files that none holds."""

    def __init__(self, store: Store, workers: Workers) -> None:
        self._store, self._workers = store, workers
        self._held: Counter[Adapter] = Counter()
        self._here: set[Adapter] = set()
        self._freeing = asyncio.Lock()

    @contextmanager
    def hold(self, adapter: Adapter) -> Iterator[None]:
        """Keep a version's files until the block ends."""
        self._held[adapter] += 1
        try:
            yield
        finally:
            self._held[adapter] -= 1
            if not self._held[adapter]:
                del self._held[adapter]

    def held(self) -> frozenset[Adapter]:
        """The versions that some request holds."""
        return frozenset(self._held)

    async def fetch(self, adapter: Adapter) -> None:
        """Bring a version's files here.

        Raises:
            AdapterRefused, StoreUnavailable: see Store.fetch.
        """
        async with self._freeing:
            self._here.add(adapter)
        await self._workers.run(self._store.fetch, adapter)

    async def free(self, needed: Callable[[Adapter], bool]) -> None:
        """Let go of the files of every version that is neither held nor needed."""
        for adapter in list(self._here):
            async with self._freeing:  # a fetch waits here: it never sees half of what is being freed
                if adapter not in self._held and not needed(adapter):
                    self._here.discard(adapter)
                    await self._workers.run(self._store.release, adapter)

    async def free_deleted(self, name: str, needed: Callable[[Adapter], bool]) -> None:
        """Remove a deleted adapter's files from the store, unless one of its versions is held or needed."""
        async with self._freeing:
            versions = {adapter for adapter in self._here | self._held.keys() if adapter.name == name}
            if not any(adapter in self._held or needed(adapter) for adapter in versions):
                await self._workers.run(self._store.free, name)
