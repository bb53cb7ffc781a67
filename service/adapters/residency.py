"""Which adapters serve right now: the store's wishes, each switched to once its version is proven and loaded."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import replace

from service.adapters.aliases import STABLE
from service.adapters.judge import Judge
from service.adapters.leases import Leases
from service.adapters.proof import Proof
from service.adapters.routing import Catalog, route, switch
from service.adapters.slots import Slots
from service.adapters.store import Store
from service.engine import Engine
from service.errors import AdapterNotFound, AdapterRefused, ServiceError
from service.metrics import Metrics
from service.types import Adapter
from service.workers import Workers

# The longest a request may take: until then another replica may need a deleted adapter's files.
GRACE_S = 600.0

log = logging.getLogger(__name__)


class Residency:
    """Follows the store. `wanted` is what it says, `served` what questions are routed by."""

    def __init__(
        self,
        store: Store,
        engine: Engine,
        proof: Proof,
        workers: Workers,
        metrics: Metrics,
        capacity: int,
        grace_s: float = GRACE_S,
    ) -> None:
        self._store, self._workers, self._metrics = store, workers, metrics
        self._leases = Leases(store, workers)
        self.judge = Judge(store, engine, proof, self._leases, workers, metrics)
        self.slots = Slots(engine, self.judge, capacity, metrics)
        self.wanted = self.served = Catalog()
        self._settling: dict[Adapter, asyncio.Task[None]] = {}
        self._lost: frozenset[Adapter] = frozenset()
        self._grace_s, self._deleted = grace_s, dict[str, float]()
        self._reading = asyncio.Lock()

    @asynccontextmanager
    async def lease(
        self, reference: str | None, pictures: bool = False, key: str | None = None
    ) -> AsyncGenerator[Adapter | None, None]:
        """The version that answers for a reference, whose files stay until the block ends; None is the base.

        Raises:
            AdapterNotFound: it is not served; the message lists what is, or says why it was refused.
        """
        if reference is None:
            yield None
            return
        adapter = self._resolve(reference, pictures, key)
        with self._leases.hold(adapter):
            yield adapter

    @asynccontextmanager
    async def loaded(self, adapter: Adapter | None) -> AsyncGenerator[None, None]:
        """Have a leased version in the engine until the block ends.

        Raises:
            AdapterNotFound: it was refused as it was loaded.
            StoreUnavailable, EngineUnavailable: it cannot be loaded now.
        """
        if adapter is None:
            yield
            return
        try:
            async with self.slots.use(adapter):
                yield
        except AdapterRefused as error:
            raise _not_served(adapter, error) from error

    async def reconcile(self) -> None:
        """Follow the store and wait until every version that an alias names is proven or refused."""
        await self.refresh()
        await asyncio.gather(*self._settling.values())

    async def refresh(self) -> None:
        """Read the store once. What was proven is switched to now; what is new is proven meanwhile, then switched to.

        Raises:
            StoreUnavailable, OSError: it cannot be read; what serves goes on serving.
        """
        async with self._reading:
            self._note(await self._workers.run(self._store.catalog))
            await self.judge.look_again()
            self._switch()
            self._start_settling(self._unsettled())
            await self._tidy()

    async def forget(self) -> None:
        """Take note that the engine is lost, and with it every adapter that was loaded."""
        self._lost |= self.slots.loaded()
        self.judge.ask_again()
        await self.slots.clear()

    async def restore(self) -> None:
        """Load and prove in another engine what was lost with the last one, as far as that can be done now."""
        self._start_settling(self._lost)
        await asyncio.gather(*self._settling.values())
        self._lost = frozenset()

    async def prove(self, adapter: Adapter) -> None:
        """Load a version and have it judged, whether or not an alias names it.

        Raises:
            AdapterRefused: it must not serve.
            StoreUnavailable, EngineUnavailable: it cannot be loaded now.
        """
        if error := self.judge.refused.get(adapter):
            raise error
        async with self.slots.use(adapter):
            pass

    def at(self, name: str, version: str) -> Adapter:
        """A version of the catalog."""
        return self._store.at(name, version)

    def stable(self) -> list[Adapter]:
        """The versions that bare names are served by, canaries aside; sorted."""
        shelves = sorted(self.served.shelves.items())
        return [
            self.at(name, shelf.aliases.named[STABLE].version)
            for name, shelf in shelves
            if STABLE in shelf.aliases.named
        ]

    def refusals(self) -> list[tuple[str, str | None, AdapterRefused]]:
        """(name, version, why) of what the store names and we do not serve, sorted."""
        wanted = sorted(self._named(self.wanted), key=lambda adapter: adapter.key)
        refused = self.judge.refused
        return [
            *((name, None, AdapterRefused("aliases", fault)) for name, fault in sorted(self.wanted.faults.items())),
            *((adapter.name, adapter.version, refused[adapter]) for adapter in wanted if adapter in refused),
        ]

    def state(self, adapter: Adapter) -> str:
        """`serving`, `unproven` (serving without a manifest), `refused`, or `idle`: no alias in service names it."""
        if adapter in self.judge.refused:
            return "refused"
        if adapter not in self._named(self.served):
            return "idle"
        return "serving" if self.judge.accepted.get(adapter) else "unproven"

    async def close(self) -> None:
        """End what is under way; the engine may stop then."""
        settling = list(self._settling.values())
        for task in settling:
            task.cancel()
        await asyncio.gather(*settling, return_exceptions=True)
        await self.slots.close()

    def _resolve(self, reference: str, pictures: bool, key: str | None) -> Adapter:
        try:
            adapter = self.at(*route(self.served, reference, pictures, key))
        except AdapterNotFound:
            if fault := self.wanted.faults.get(reference.partition("@")[0]):
                raise AdapterNotFound(fault) from None
            adapter = self.at(*route(self.wanted, reference, pictures, key))
            if adapter not in self.judge.refused:
                raise
        if error := self.judge.refused.get(adapter):
            raise _not_served(adapter, error)
        return adapter

    def _note(self, catalog: Catalog) -> None:
        """Take over what the store says; an adapter whose entry cannot be read stays as it was."""
        for name, fault in catalog.faults.items() - self.wanted.faults.items():
            self._metrics.rejected.labels("aliases").inc()
            log.error("adapter %s: %s", name, fault)
        kept = {name: shelf for name, shelf in self.wanted.shelves.items() if name in catalog.faults}
        self.wanted = replace(catalog, shelves={**catalog.shelves, **kept})

    def _switch(self) -> None:
        self.served = switch(self.wanted, self.served, lambda version: self.at(*version) in self.judge.accepted)
        self.slots.pin(frozenset(self.pinned()[: self.slots.capacity - 1]))

    def pinned(self) -> list[Adapter]:
        """The versions in service of pinned adapters; all but one slot's worth of them stay loaded."""
        pinned = {name: shelf for name, shelf in self.served.shelves.items() if shelf.aliases.pinned}
        return sorted(self._named(Catalog(pinned)), key=lambda adapter: adapter.key)

    def _named(self, catalog: Catalog) -> set[Adapter]:
        return {self.at(*version) for version in catalog.named()}

    def _unsettled(self) -> set[Adapter]:
        unknown = self._named(self.wanted) - self.judge.accepted.keys()
        return unknown | self.slots.pinned - self.slots.loaded()

    def _start_settling(self, adapters: AbstractSet[Adapter]) -> None:
        for adapter in adapters - self.judge.refused.keys() - self._settling.keys():
            self._settling[adapter] = asyncio.create_task(self._settle(adapter))

    async def _settle(self, adapter: Adapter) -> None:
        try:
            await self.prove(adapter)
        except AdapterRefused:
            pass  # the judge told why
        except ServiceError as error:
            log.warning("adapter %s is not judged yet, the next look tries again: %s", adapter.key[:48], error.message)
        finally:
            del self._settling[adapter]
            self._switch()

    async def _tidy(self) -> None:
        """Unload what no alias names and no request holds, and let its files go."""
        named = self._named(self.wanted) | self._named(self.served)
        for adapter in self.slots.loaded() - named - self._leases.held():
            await self.slots.drop(adapter)
        await self._leases.free(lambda adapter: adapter in named or adapter in self.slots)
        now = time.monotonic()
        self._deleted = {name: self._deleted.get(name, now) for name in self.wanted.deleted}
        for name, since in self._deleted.items():
            if now - since >= self._grace_s:
                await self._leases.free_deleted(name, self.slots.__contains__)


def _not_served(adapter: Adapter, error: AdapterRefused) -> AdapterNotFound:
    return AdapterNotFound(f"adapter {adapter.name!r} was refused when it was loaded: {error.message}")
