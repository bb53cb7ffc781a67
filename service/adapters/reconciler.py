"""Moves versions between states, as requests want them and the engine has room: see the drawing in __init__.py.

`_advance` decides what a version's next step is. A step (fetching, loading, leaving) is one task, which ends by moving
the version to its next state and calling `_advance` again.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any

from service.adapters.manifest import Manifest
from service.adapters.proof import Proof
from service.adapters.store import Store
from service.adapters.verdicts import Verdict, Verdicts
from service.adapters.version import AT_REST, BAD, MOVES, State, Status, Version
from service.calibration import FILE, Calibration, read_calibration
from service.engine import Engine
from service.errors import AdapterRefused, EngineUnavailable, StoreUnavailable
from service.members import members
from service.metrics import Metrics
from service.types import Adapter
from service.workers import Workers

# Seconds: a condition is tried again after one, then after twice as long each time, up to this.
LONGEST_PAUSE_S = 600.0

# The state after a step that was cancelled since nobody waited for it any more.
_BACK = {State.FETCHING: State.STORED, State.QUEUED: State.HERE}

log = logging.getLogger(__name__)


class Reconciler:
    """The versions of one replica that somebody asked for, and the engine's `capacity` places for loaded LoRAs."""

    def __init__(
        self, store: Store, engine: Engine, proof: Proof, workers: Workers, metrics: Metrics, capacity: int
    ) -> None:
        self._store, self._engine, self._proof = store, engine, proof
        self._workers, self._metrics = workers, metrics
        self.capacity, self.verdicts = capacity, Verdicts()
        self.versions: dict[Adapter, Version] = {}
        self.pinned: frozenset[Adapter] = frozenset()
        self.heard: Callable[[Adapter], None] = lambda _: None
        """Called with each version whose state changed."""
        self.changed = asyncio.Event()
        self.free_places, self._taking, self._moving, self._freeing = (
            capacity,
            asyncio.Lock(),
            asyncio.Lock(),
            asyncio.Lock(),
        )
        self._collecting = asyncio.Lock()
        self._clock = itertools.count(1)
        self._lost = 0  # engines that were lost so far
        self._closed = False

    def get(self, adapter: Adapter) -> Version:
        """The record of a version, made where there is none yet."""
        if adapter not in self.versions:
            version = self.versions[adapter] = Version(adapter, verdict=self.verdicts.get(adapter.version))
            if version.verdict and version.verdict.reason:
                version.status = Status(State.REFUSED, version.verdict.reason, version.verdict.message)
        return self.versions[adapter]

    def fitting(self, adapters: Iterable[Adapter]) -> frozenset[Adapter]:
        """The first of these, as many as leave free the places that the largest known version takes."""
        sizes = {adapter: version.places for adapter, version in self.versions.items()}
        room, found = self.capacity - max(sizes.values(), default=1), set[Adapter]()
        for adapter in adapters:
            room -= sizes.get(adapter, 1)
            if room < 0:
                break
            found.add(adapter)
        return frozenset(found)

    def loaded(self) -> frozenset[Adapter]:
        """The versions that serve: a question to one of them need not wait for it."""
        return frozenset(adapter for adapter, version in self.versions.items() if version.state is State.SERVING)

    @contextmanager
    def hold(self, adapter: Adapter) -> Iterator[Version]:
        """Keep a version's files on this machine until the block ends; begin to fetch and judge them if need be."""
        version = self.get(adapter)
        version.holders += 1
        self._advance(version)
        try:
            yield version
        finally:
            version.holders -= 1
            self._abandon(version)

    @asynccontextmanager
    async def use(self, version: Version) -> AsyncGenerator[None, None]:
        """Have a version in the engine, proven, until the block ends.

        Raises:
            AdapterNotFound: it was refused.
            AdapterUnavailable, StoreUnavailable: it failed, or its files cannot be had; it is tried again later.
            EngineUnavailable: there is no engine.
        """
        await self._enter(version)
        try:
            yield
        finally:
            self._leave(version)

    def seek(self, sought: frozenset[Adapter]) -> None:
        """Load these versions, in place of those of the last call; others are loaded only for requests."""
        for version in [*self.versions.values()]:
            if version.sought and version.adapter not in sought:
                version.sought = False
                self._abandon(version)
        for adapter in sought:
            version = self.get(adapter)
            version.sought = True
            self._advance(version)

    def unsettled(self) -> bool:
        """Whether a version given to `seek` is still on its way into the engine."""
        return any(version.sought and version.task is not None for version in self.versions.values())

    async def look_again(self) -> None:
        """Have versions judged anew that failed or were refused, and whose files have changed since.

        Raises:
            StoreUnavailable: the store cannot be read.
        """
        for version in [*self.versions.values()]:
            if version.state in BAD and version.stamp is not None:
                stamp = await self._workers.run(self._store.stamp, version.adapter)
                if stamp != version.stamp and version.state in BAD:
                    version.verdict, version.failures = None, 0
                    self._move(version, State.STORED)

    async def tidy(self, named: Callable[[Adapter], bool]) -> None:
        """Unload versions that nothing names and no request holds, remove their copies, and keep copies within bounds.

        `named` tells whether an alias names a version.
        """
        for version in [*self.versions.values()]:
            if self._unneeded(version, named) and version.state is State.SERVING:
                self._close(version, self._give_back)
                await asyncio.wait([version.task] if version.task else [])
            async with self._freeing:
                if self._unneeded(version, named) and version.state in AT_REST:
                    del self.versions[version.adapter]  # who asks now has a new record, which waits for us
                    await self._workers.run(self._store.release, version.adapter)
        async with self._freeing:
            used = [each.adapter for each in self.versions.values() if each.holders or each.state not in AT_REST]
            await self._workers.run(self._store.trim, frozenset(used))

    async def free(self, name: str) -> None:
        """Remove a deleted adapter's files from the store, unless a request holds one of its versions."""
        async with self._freeing:
            mine = [version for adapter, version in self.versions.items() if adapter.name == name]
            if not any(version.holders or version.state not in AT_REST for version in mine):
                await self._workers.run(self._store.free, name)

    def forget(self) -> frozenset[Adapter]:
        """Take note that the engine is lost, and return the versions that it had; requests that use one fail."""
        self._lost += 1
        lost = [version for version in self.versions.values() if version.state is State.SERVING]
        for version in lost:
            self._close(version, self._give_back)
        return frozenset(version.adapter for version in lost)

    async def close(self) -> None:
        """Cancel the tasks under way and wait for their end."""
        self._closed = True
        tasks = [version.task for version in self.versions.values() if version.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _unneeded(self, version: Version, named: Callable[[Adapter], bool]) -> bool:
        return not (version.holders or version.users or version.wanted or named(version.adapter))

    async def _enter(self, version: Version) -> None:
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        version.waiting.append(place)
        self._advance(version)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and not place.exception():  # it came as its caller left
                self._leave(version)
            raise
        finally:
            with suppress(ValueError):
                version.waiting.remove(place)
            self._abandon(version)

    def _leave(self, version: Version) -> None:
        version.users -= 1
        version.used = next(self._clock)
        if not version.users:
            version.idle.set()

    def _advance(self, version: Version) -> None:
        """Start a version's next step, by its state and what is wanted of it; do nothing while one is under way."""
        now = _now()
        if version.task is not None or self._closed:
            return
        if version.state is State.SERVING:
            self._admit(version)
        elif version.state is State.REFUSED or (version.status.retry_at or now) > now:
            self._turn_away(version, partial(version.error, now))
        elif version.state is State.HERE and version.wanted:
            self._start(version, State.QUEUED, self._load(version))
        elif version.state is not State.HERE and (version.wanted or version.holders):
            self._start(version, State.FETCHING, self._fetch(version))

    def _admit(self, version: Version) -> None:
        for place in version.waiting:
            if not place.done():
                version.users += 1
                place.set_result(None)
        version.waiting.clear()

    def _turn_away(self, version: Version, error: Callable[[], Exception]) -> None:
        for place in version.waiting:
            if not place.done():
                place.set_exception(error())
        version.waiting.clear()

    def _abandon(self, version: Version) -> None:
        """Cancel a version's step that no request waits for any more, unless the engine is already loading it."""
        if version.wanted or (version.holders and version.state is not State.QUEUED):
            return
        if version.task is not None and version.state in (State.FETCHING, State.QUEUED):
            version.task.cancel()
        elif version.state is State.HERE and version.task is None:  # its files are judged anew when it is next asked
            self._move(version, State.STORED)

    def _start(self, version: Version, state: State, work: Coroutine[Any, Any, None]) -> None:
        self._move(version, state)
        version.task = asyncio.create_task(work)
        version.task.add_done_callback(partial(self._done, version))

    def _done(self, version: Version, task: "asyncio.Task[None]") -> None:
        if version.task is task:
            version.task = None
        if task.cancelled():  # perhaps before it began
            if version.state in _BACK:
                self._move(version, _BACK[version.state])
        elif fault := task.exception():  # unforeseen: steps handle their errors themselves
            log.error("adapter %s: %r", version.adapter.key[:48], fault, exc_info=fault)
        self._advance(version)
        self._abandon(version)
        self.changed.set()

    def _move(self, version: Version, state: State, error: AdapterRefused | StoreUnavailable | None = None) -> None:
        assert state in MOVES[version.state], f"{version.adapter.key[:48]}: {version.state} to {state}"
        reason = error.reason if isinstance(error, AdapterRefused) else "store" if error else None
        retry_at = None
        if state in (State.UNREACHABLE, State.FAILED):
            retry_at = _now() + min(2.0**version.failures, LONGEST_PAUSE_S)
            version.failures = min(version.failures + 1, 16)
        version.status = Status(state, reason, error.message if error else None, retry_at)
        if error is not None and reason is not None:
            counter = self._metrics.rejected if state is State.REFUSED else self._metrics.failed
            counter.labels(reason).inc()
            log.error("adapter %s %s (%s): %s", version.adapter.key[:48], state, reason, error.message)
        self.changed.set()
        self.heard(version.adapter)

    async def _fetch(self, version: Version) -> None:
        """FETCHING -> HERE, REFUSED, UNREACHABLE; STORED when nobody waits for it any more."""
        self._move(version, *await self._examine(version))

    async def _examine(self, version: Version) -> tuple[State, AdapterRefused | StoreUnavailable | None]:
        """Fetch a version's files and judge them, if that was not done; returns the state to move to, and the error."""
        adapter, run = version.adapter, self._workers.run
        async with self._freeing:  # wait until `tidy` or `free` is done with files; they leave a FETCHING version alone
            pass
        try:
            version.stamp = await run(self._store.stamp, adapter)
            await run(self._store.fetch, adapter, version.stamp == version.whole)
            version.whole = version.stamp
            version.calibration = await run(_calibration, adapter)
            version.places = len(await run(members, adapter.path))
            if version.places > self.capacity:
                raise AdapterRefused(
                    "places",
                    f"{adapter.key[:48]} takes {version.places} places in the engine, which has {self.capacity}: raise"
                    " VQA_MAX_CPU_LORAS",
                )
            if version.verdict is None:
                await run(self._proof.examine, adapter)
        except AdapterRefused as error:
            refused = error
        except (OSError, MemoryError, StoreUnavailable) as error:
            return State.UNREACHABLE, _unavailable(error)
        except Exception as error:  # hostile files may raise anything
            refused = AdapterRefused("files", f"{adapter.key[:48]} cannot be judged: {error!r}")
        else:
            return State.HERE, None
        if refused.reason not in ("corrupt", "places"):  # these are no faults of the published content
            verdict = Verdict(version=adapter.version, reason=refused.reason, message=refused.message)
            await run(self.verdicts.keep, verdict)
        return State.REFUSED, refused

    async def _load(self, version: Version) -> None:
        """QUEUED -> LOADING -> SERVING, FAILED; HERE when nobody waits for it any more, or the engine is lost."""
        started = time.perf_counter()
        await self._take_places(version)
        self._move(version, State.LOADING)
        try:
            async with self._moving:
                await self._engine.load(version.adapter)
            if version.verdict is None or version.engine != self._lost:  # another engine since it was proven
                await self._prove(version)
        except BaseException as error:
            await self._unload(version)
            self._give_back(version.places)
            self._fail(version, error)
            if isinstance(error, asyncio.CancelledError):
                raise
            return
        version.used, version.failures = next(self._clock), 0
        self._move(version, State.SERVING)
        version.sought = version.adapter in self.pinned
        self._admit(version)  # before anyone can make it leave again
        self._metrics.load_seconds.observe(time.perf_counter() - started)

    def _fail(self, version: Version, error: BaseException) -> None:
        if isinstance(error, EngineUnavailable | asyncio.CancelledError):  # which says nothing of the version
            self._move(version, State.HERE)
            version.sought = False  # until the store is looked at again: there may be an engine then
            self._turn_away(version, lambda: EngineUnavailable(str(error) or "the engine stops"))
        elif isinstance(error, OSError | MemoryError | StoreUnavailable):
            self._move(version, State.UNREACHABLE, _unavailable(error))
        else:
            version.verdict = None
            failed = error if isinstance(error, AdapterRefused) else AdapterRefused("engine", repr(error))
            self._move(version, State.FAILED, failed)

    async def _prove(self, version: Version) -> None:
        """Have a loaded version answer its probes, and keep the verdict.

        Raises: what `Proof.examine` and `Proof.ask` raise.
        """
        manifest: Manifest | None = await self._workers.run(self._proof.examine, version.adapter)
        if manifest is not None:
            await self._proof.ask(self._engine, version.adapter, manifest)
        verdict = Verdict(version=version.adapter.version, facts=manifest.facts if manifest else None)
        await self._workers.run(self.verdicts.keep, verdict)
        version.verdict, version.engine = verdict, self._lost
        log.info("adapter %s %s", version.adapter.key[:48], "proven" if manifest else "taken unproven")

    async def _take_places(self, version: Version) -> None:
        """Wait for the places that a version takes; of versions that take several only one collects them at a time."""
        if version.places == 1:
            await self._take_room()
            return
        taken = 0
        async with self._collecting:
            try:
                while taken < version.places:
                    await self._take_room()
                    taken += 1
            except BaseException:
                self._give_back(taken)
                raise

    async def _take_room(self) -> None:
        """Wait for one place in the engine, in order of arrival; where none is free, a loaded version is unloaded."""
        async with self._taking:
            while not self.free_places:
                if victim := self._victim():
                    place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    self._close(victim, partial(self._hand_over, place))
                    break
                self.changed.clear()
                await self.changed.wait()
            else:
                self.free_places -= 1
                return
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._give_back()
            raise

    def _victim(self) -> Version | None:
        """The version to unload: an idle one before a busy one, then the least recently used; None: all are pinned."""
        serving = (v for v in self.versions.values() if v.state is State.SERVING and v.adapter not in self.pinned)
        return min(serving, key=lambda version: (version.users > 0, version.used), default=None)

    def _close(self, version: Version, then: Callable[[], None]) -> None:
        """SERVING -> LEAVING: new requests do not get it; `then` is called once it is unloaded, to use its place."""
        version.idle.clear()
        self._start(version, State.LEAVING, self._go(version, then))

    async def _go(self, version: Version, then: Callable[[], None]) -> None:
        """LEAVING -> STORED, once no request uses it."""
        try:
            if version.users:
                await version.idle.wait()
            await self._unload(version)
        finally:
            self._move(version, State.STORED)
            self._give_back(version.places - 1)
            then()

    async def _unload(self, version: Version) -> None:
        async with self._moving:
            with suppress(EngineUnavailable):  # a dead engine holds nothing
                await self._engine.unload(version.adapter)

    def _hand_over(self, place: "asyncio.Future[None]") -> None:
        if place.cancelled():
            self._give_back()
        else:
            place.set_result(None)

    def _give_back(self, places: int = 1) -> None:
        self.free_places += places
        self.changed.set()


def _calibration(adapter: Adapter) -> Calibration | None:
    try:
        return read_calibration(adapter.path)
    except ValueError as error:
        raise AdapterRefused("calibration", f"{adapter.path / FILE} is not a calibration: {error}") from error


def _unavailable(error: BaseException) -> StoreUnavailable:
    if isinstance(error, StoreUnavailable):
        return error
    return StoreUnavailable(f"its files cannot be read: {error!r}")


def _now() -> float:
    return asyncio.get_running_loop().time()
