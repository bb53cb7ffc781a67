"""Which adapter versions serve right now: the store's wishes, proven and loaded into the engine one by one."""

import logging
import time

from service.adapters.manifest import Manifest
from service.adapters.proof import Proof
from service.adapters.store import Store
from service.engine import Engine
from service.errors import AdapterNotFound, AdapterRefused
from service.metrics import Metrics
from service.types import Adapter
from service.workers import Workers

log = logging.getLogger(__name__)


class Residency:
    """The adapters that were proven and serve, and those that were refused with the reason."""

    def __init__(self, store: Store, engine: Engine, proof: Proof, workers: Workers, metrics: Metrics) -> None:
        self._store, self._engine, self._proof, self._workers, self._metrics = store, engine, proof, workers, metrics
        self.serving: dict[str, tuple[Adapter, Manifest]] = {}
        self.refused: dict[str, AdapterRefused] = {}

    def resolve(self, name: str | None) -> Adapter | None:
        """The version that answers for `name`; None is the base.

        Raises:
            AdapterNotFound: the name is not served; the message lists what is, or says why it was refused.
        """
        if name is None:
            return None
        if name in self.serving:
            return self.serving[name][0]
        if name in self.refused:
            raise AdapterNotFound(f"adapter {name!r} was refused when it was loaded: {self.refused[name].message}")
        raise AdapterNotFound(f"no adapter {name[:64]!r}; there are: {', '.join(sorted(self.serving)) or 'none'}")

    async def reconcile(self) -> None:
        """Serve every adapter of the store that can be proven; one that cannot never disturbs another."""
        for name in await self._workers.run(self._store.names):
            started = time.perf_counter()
            try:
                adapter, manifest = await self._admit(name)
            except AdapterRefused as error:
                self.refused[name] = error
                self._metrics.rejected.labels(error.reason).inc()
                log.error("adapter %s refused (%s): %s", name, error.reason, error.message)
                continue
            self.serving[name] = (adapter, manifest)
            self._metrics.load_seconds.observe(time.perf_counter() - started)
            self._metrics.resident.labels(name, adapter.version).set(1)
            log.info("adapter %s@%s proven and serving", name, adapter.version[:12])

    async def _admit(self, name: str) -> tuple[Adapter, Manifest]:
        adapter, manifest = await self._workers.run(self._read, name)
        await self._engine.load(adapter)
        try:
            await self._proof.ask(self._engine, adapter, manifest)
        except AdapterRefused:
            await self._engine.unload(adapter)
            raise
        return adapter, manifest

    def _read(self, name: str) -> tuple[Adapter, Manifest]:
        try:
            adapter = self._store.stable(name)
        except (AdapterNotFound, ValueError) as error:
            raise AdapterRefused("files", f"{name}: {error}") from error
        self._store.verify(adapter)
        return adapter, self._proof.examine(adapter)
