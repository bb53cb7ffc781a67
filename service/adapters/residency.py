"""Which adapters serve: follows the store, and gives each request the version that answers it.

Requests read two things, both immutable: `served`, the catalog that they are routed by, and each version's Status.
Replicas of one store do not talk to each other; each follows the store, so that they come to serve the same.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import datetime

from service.adapters.aliases import STABLE
from service.adapters.proof import Proof
from service.adapters.reconciler import Reconciler
from service.adapters.routing import Catalog, Fault, Shelf, Standing, route, serve
from service.adapters.store import Store
from service.adapters.verdicts import Verdict
from service.adapters.version import IN_ENGINE, State, Status, Version
from service.calibration import Calibration
from service.engine import Engine
from service.errors import AdapterNotFound, AdapterRefused, AdapterUnavailable, StoreUnavailable
from service.members import member_of
from service.metrics import Affinity, Metrics, Resident, Residents
from service.types import Adapter, Release
from service.workers import Workers

# Seconds that a deleted adapter's files are kept, for requests at other replicas: the longest that one may take.
GRACE_S = 600.0
# Pauses between two reads of the store are at least so many times as long as the last read, which so has a twentieth of
# the time: a large or slow store is read less often.
_PAUSE_PER_LOOK = 19.0

# Reasons of faults that say that an entry cannot be read now: an adapter of that name is served as before.
UNREAD = ("store", "aliases")

log = logging.getLogger(__name__)


class Lease:
    """One request's adapter, whose files stay on this machine until `end`.

    `release` is what chose the version (stable, canary, pinned); None for the base.
    """

    def __init__(self, residency: "Residency", reference: str | None, pictures: bool, key: str | None) -> None:
        self._residency, self._asked = residency, (reference or "", pictures, key)
        self._held = ExitStack()
        self._version: Version | None = None
        self.release: Release | None = None
        self._used: Callable[[int], None] = lambda _places: None
        if reference is not None:
            self._take()

    @property
    def adapter(self) -> Adapter | None:
        """The version that answers; None: the base."""
        return self._version.adapter if self._version else None

    @property
    def calibration(self) -> Calibration | None:
        """The version's calibration; None: it has none, its files are not on this machine yet, or it is the base."""
        return self._version.calibration if self._version else None

    def member(self, pictures: int) -> str:
        """The member of a mixture that answers about so many pictures; "" of any other adapter, and of the base."""
        return member_of(pictures) if self._version and self._version.places > 1 else ""

    @asynccontextmanager
    async def loaded(self) -> AsyncGenerator[Adapter | None, None]:
        """Have the version in the engine until the block ends, and yield it; None: the base.

        Where it is refused or fails meanwhile, the version that the reference leads to then takes its place.

        Raises:
            AdapterNotFound: it was refused, and the reference leads to no other.
            AdapterUnavailable, StoreUnavailable, EngineUnavailable: it cannot be loaded now.
        """
        while self._version is not None:
            using = self._residency.reconciler.use(self._version)
            try:
                await using.__aenter__()
            except (AdapterNotFound, AdapterUnavailable):
                refused = self._version.adapter
                self._take()
                if self._version.adapter == refused:
                    raise
                continue
            self._used(self._version.places)
            try:
                yield self._version.adapter
            finally:
                await using.__aexit__(None, None, None)
            return
        yield None

    def end(self) -> None:
        """Let the version's files go: they may be removed from this machine from now on."""
        self._held.close()

    def _take(self) -> None:
        residency, reference = self._residency, self._asked[0]
        adapter, self.release = residency.resolve(*self._asked)
        with ExitStack() as before:
            before.push(self._held.pop_all())
            self._version = self._held.enter_context(residency.reconciler.hold(adapter))
            self._used = self._held.enter_context(residency.affinity.wait(adapter, residency.plain(reference, adapter)))


class Residency:
    """The adapters of one replica: `wanted` is the catalog as the store has it, `served` as it routes questions."""

    def __init__(
        self,
        store: Store,
        engine: Engine,
        proof: Proof,
        workers: Workers,
        metrics: Metrics,
        capacity: int,
        grace_s: float = GRACE_S,
        max_loras: int = 1,
    ) -> None:
        """`capacity` versions may be loaded at once, of which `max_loras` may share a batch.

        A deleted adapter's files are removed after `grace_s` seconds.
        """
        self._store, self._engine, self._proof = store, engine, proof
        self._workers, self._metrics = workers, metrics
        self.reconciler = Reconciler(store, engine, proof, workers, metrics, capacity)
        self.reconciler.heard = self._hear
        self.affinity = Affinity(max_loras)
        metrics.registry.register(self.affinity)
        metrics.registry.register(Residents(self._residents))
        self.wanted = self.served = Catalog()
        self._read: Catalog | None = None
        self._held_back: dict[str, Shelf] = {}  # what is served of an adapter where that is not what is wanted
        self._lost: frozenset[Adapter] = frozenset()
        self._grace_s, self._deleted = grace_s, dict[str, float]()
        self._reading = asyncio.Lock()
        self._outage: str | None = None

    @contextmanager
    def lease(self, reference: str | None, pictures: bool = False, key: str | None = None) -> Iterator[Lease]:
        """The Lease of the version that a reference leads to, until the block ends; its files begin to be fetched.

        `reference` is NAME, NAME@ALIAS, NAME@VERSION or None, the base; `pictures` says whether the question has any;
        questions with the same `key` get the same version.

        Raises:
            AdapterNotFound: it is not served; the message says why, or which are.
            AdapterUnavailable, StoreUnavailable: it failed when it was last tried, and is tried again later.
        """
        lease = Lease(self, reference, pictures, key)
        try:
            yield lease
        finally:
            lease.end()

    async def start(self) -> None:
        """Read the verdicts of earlier runs, then the store, and load what is pinned; a store that fails is logged."""
        key = self._proof.key(self._engine.build)
        await self._workers.run(self._remember, key)
        try:
            await self.refresh()
        except StoreUnavailable:
            return
        if not self.wanted.every:
            log.warning("the adapter store %s is empty: the base serves alone", self._store.root)
        await self._settled()

    async def reconcile(self) -> None:
        """Read the store, and wait until all versions that are to be loaded serve or failed.

        Raises: what `refresh` raises.
        """
        await self.refresh()
        await self._settled()

    async def refresh(self) -> None:
        """Read the store once, and serve what it says as far as that is proven.

        Raises:
            StoreUnavailable: it cannot be read; what serves goes on serving.
        """
        async with self._reading:
            try:
                catalog = await self._workers.run(self._store.catalog)
            except (StoreUnavailable, OSError) as error:
                self._tell_outage(error)
                raise
            self._tell_outage(None)
            self._metrics.store_seen.set_to_current_time()
            if catalog is not self._read:
                self._note(catalog)
            await self.reconciler.look_again()
            self._seek()
            await self._tidy()

    async def follow(self, every_s: float) -> None:
        """Read the store every `every_s` seconds, or less often where reading takes long, until cancelled."""
        pause_s = every_s
        while True:
            self._metrics.store_poll.set(pause_s)
            await asyncio.sleep(pause_s)
            began = time.monotonic()
            try:
                await self.refresh()
            except StoreUnavailable:
                pass  # it was told of, and the next look may do better
            except Exception:
                log.exception("the adapter store could not be followed; what serves goes on serving")
            pause_s = max(every_s, _PAUSE_PER_LOOK * (time.monotonic() - began))

    async def forget(self) -> None:
        """Take note that the engine is lost, and with it all adapters that were loaded."""
        self._lost |= self.reconciler.forget()

    async def restore(self) -> None:
        """Load in the new engine the versions that the last one had; those that fail are left out."""
        await asyncio.gather(*map(self.prove, self._lost), return_exceptions=True)
        self._lost = frozenset()
        self._seek()

    async def prove(self, adapter: Adapter) -> None:
        """Load a version and have it answer its probes, whether or not an alias names it.

        Raises:
            AdapterRefused: it must not serve, or could not be loaded.
            StoreUnavailable, EngineUnavailable: it cannot be loaded now.
        """
        with self.reconciler.hold(adapter) as version:
            try:
                async with self.reconciler.use(version):
                    pass
            except (AdapterNotFound, AdapterUnavailable) as error:
                raise AdapterRefused(version.status.reason or "engine", version.status.message or str(error)) from error

    def resolve(self, reference: str, pictures: bool, key: str | None) -> tuple[Adapter, Release]:
        """The version that a reference leads to now, and what chose it.

        Raises: what `lease` raises.
        """
        try:
            name, chosen, release = route(self.served, reference, pictures, key)
            adapter = self.at(name, chosen)
        except AdapterNotFound:
            if fault := self.wanted.faults.get(reference.partition("@")[0]):
                raise AdapterNotFound(fault.message) from None
            name, chosen, release = route(self.wanted, reference, pictures, key)
            adapter = self.at(name, chosen)
            if self.standing(adapter) is not Standing.BAD:
                raise
        version, now = self.reconciler.versions.get(adapter), asyncio.get_running_loop().time()
        if version and (version.state is State.REFUSED or (version.status.retry_at or now) > now):
            raise version.error(now)
        return adapter, release

    def plain(self, reference: str, adapter: Adapter) -> str | None:
        """The name that a load balancer knows a version by: NAME or NAME@ALIAS; None where it was named by digest."""
        alias = reference.partition("@")[2]
        if not alias:
            return adapter.name
        shelf = self.wanted.shelves.get(adapter.name)
        return f"{adapter.name}@{alias}" if shelf and alias in shelf.aliases.named else None

    def at(self, name: str, version: str) -> Adapter:
        """The Adapter of a name and a version, which need not be in the catalog."""
        return self._store.at(name, version)

    def status(self, adapter: Adapter) -> Status:
        """The state of a version in this replica, and why."""
        version = self.reconciler.versions.get(adapter)
        if version is not None:
            return version.status
        verdict = self.reconciler.verdicts.get(adapter.version)
        if verdict is None or verdict.reason is None:
            return Status()
        return Status(State.REFUSED, verdict.reason, verdict.message)

    def verdict(self, adapter: Adapter) -> Verdict | None:
        """The verdict on a version; None: it was not judged yet."""
        version = self.reconciler.versions.get(adapter)
        return version.verdict if version else self.reconciler.verdicts.get(adapter.version)

    def calibrated(self, adapter: Adapter) -> bool | None:
        """Whether a version has a calibration; None before this replica had its files."""
        version = self.reconciler.versions.get(adapter)
        return version.calibrated if version else None

    def standing(self, adapter: Adapter) -> Standing:
        """Whether a version is proven, is known to be bad, or neither."""
        verdict, state = self.verdict(adapter), self.status(adapter).state
        if state in (State.REFUSED, State.FAILED):
            return Standing.BAD
        return Standing.PROVEN if verdict is not None else Standing.UNKNOWN

    def changed(self, name: str) -> datetime | None:
        """When an alias of an adapter was last moved or given another share, by what is served here; None: unknown."""
        shelf = self.served.shelves.get(name)
        return shelf.aliases.changed if shelf else None

    def loaded(self) -> list[tuple[str, str]]:
        """The adapters in the engine, each by name and version; any thread may ask."""
        return [(version.adapter.name, version.adapter.version) for version in self._serving()]

    def pinned(self) -> list[Adapter]:
        """The versions that serve of pinned adapters, sorted; `Reconciler.fitting` says how many stay loaded."""
        names = sorted(self.wanted.pinned)
        return [self.at(name, version) for name in names for version in sorted(self.served.named(name))]

    async def close(self) -> None:
        """Cancel what is under way and unlock the copies; call it after the engine was stopped."""
        await self.reconciler.close()
        await self._workers.run(self._store.close)

    def _residents(self) -> list[Resident]:
        """The versions that are loaded now, for metrics; also called on the thread that serves --metrics-port."""
        return [self._resident(version) for version in self._serving()]

    def _serving(self) -> list[Version]:
        return [version for version in list(self.reconciler.versions.values()) if version.state is State.SERVING]

    def _resident(self, version: Version) -> Resident:
        adapter, facts = version.adapter, version.verdict.facts if version.verdict else None
        shelf = self.served.shelves.get(adapter.name)
        stable = shelf.aliases.named.get(STABLE) if shelf else None
        return Resident(
            adapter.name,
            adapter.version,
            stable is not None and stable.version == adapter.version,
            facts.score.shares if facts else {},
        )

    def _remember(self, key: str) -> None:
        try:
            self.reconciler.verdicts.remember(self._store.own.path, key)
        except OSError as error:
            log.warning("nowhere to keep verdicts, the next start proves adapters again: %s", error)

    def _tell_outage(self, error: Exception | None) -> None:
        """Log once that the store fails, and once that it can be read again."""
        self._metrics.store_up.set(0 if error else 1)
        said = str(error) if error else None
        if said and said != self._outage:
            log.error("%s; what serves goes on serving, and the store is tried again", said)
        elif self._outage and not said:
            log.info("the adapter store %s can be read again", self._store.root)
        self._outage = said

    def _note(self, catalog: Catalog) -> None:
        """Take over what the store says; an adapter whose entry cannot be read stays as it was."""
        before, self._read = self.wanted, catalog
        catalog = _without(catalog, self._proof.base.id)
        unread = [name for name, fault in catalog.faults.items() if fault.reason in UNREAD]
        if kept := {name: before.shelves[name] for name in unread if name in before.shelves}:
            catalog = replace(catalog, shelves={**catalog.shelves, **kept})
        for name, fault in catalog.faults.items():
            if before.faults.get(name) != fault:
                self._metrics.rejected.labels(fault.reason).inc()
                log.error("adapter %s (%s): %s", name[:80], fault.reason, fault.message)
        self.wanted = catalog
        for name in self._held_back.keys() - catalog.shelves.keys():
            del self._held_back[name]
        for name, shelf in catalog.shelves.items():
            if before.shelves.get(name) is not shelf:
                self._decide(name)
        self._serve()

    def _hear(self, adapter: Adapter) -> None:
        """Decide anew what is served of an adapter, since a version of it has changed its state."""
        if adapter.name in self.wanted.shelves and self._decide(adapter.name):
            self._serve()

    def _decide(self, name: str) -> bool:
        """Decide which versions are served of an adapter; returns whether that changed."""
        wanted, before = self.wanted.shelves[name], self.served.shelves.get(name)
        named = before.aliases.named if before else {}
        versions = {alias.version for alias in wanted.aliases.named.values()}
        if before is None and not any(map(self.reconciler.verdicts.get, versions)):  # as 10,000 are at a start
            shelf = wanted
        else:
            shelf = serve(
                wanted,
                named,
                lambda version: self.standing(self.at(name, version)),
                lambda version: self._in_use(self.at(name, version)),
            )
        if shelf is wanted:
            self._held_back.pop(name, None)
        else:
            self._held_back[name] = shelf
        return before is None or shelf.aliases.named != named

    def _serve(self) -> None:
        self.served = replace(self.wanted, shelves={**self.wanted.shelves, **self._held_back})

    def _in_use(self, adapter: Adapter) -> bool:
        version = self.reconciler.versions.get(adapter)
        return version is not None and (version.holders > 0 or version.state in IN_ENGINE)

    def _seek(self) -> None:
        """Have pinned versions loaded, and versions that an alias waits to move to."""
        pinned = self.reconciler.fitting(self.pinned())
        awaited = {
            self.at(name, version)
            for name in self._held_back
            for version in self.wanted.named(name) - self.served.named(name)
        }
        self.reconciler.pinned = pinned
        self.reconciler.seek(pinned | {each for each in awaited if self.status(each).state is not State.REFUSED})

    async def _settled(self) -> None:
        while self.reconciler.unsettled():
            self.reconciler.changed.clear()
            await self.reconciler.changed.wait()

    def _named(self, adapter: Adapter) -> bool:
        return any(adapter.version in catalog.named(adapter.name) for catalog in (self.wanted, self.served))

    async def _tidy(self) -> None:
        """Unload what no alias names and no request holds, and let its files go."""
        await self.reconciler.tidy(self._named)
        now = time.monotonic()
        self._deleted = {name: self._deleted.get(name, now) for name in self.wanted.deleted}
        for name, since in self._deleted.items():
            if now - since >= self._grace_s:
                await self.reconciler.free(name)


def _without(catalog: Catalog, base: str) -> Catalog:
    """A catalog without an adapter or router of the base's own name: by that name the base is asked."""
    if base not in catalog.shelves.keys() | catalog.routers.keys():
        return catalog
    why = Fault("name", f"{base!r} is the base's own name: publish the adapter under another")
    shelves = {name: shelf for name, shelf in catalog.shelves.items() if name != base}
    routers = {name: router for name, router in catalog.routers.items() if name != base}
    return replace(catalog, shelves=shelves, routers=routers, faults={**catalog.faults, base: why})
