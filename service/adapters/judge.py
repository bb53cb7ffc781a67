"""May a version serve? Asked once in the life of an engine; a refusal stands until the version's files change."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from service.adapters.leases import Leases
from service.adapters.manifest import Manifest
from service.adapters.proof import Proof
from service.adapters.store import Store
from service.engine import Engine
from service.errors import AdapterRefused, EngineUnavailable
from service.metrics import Metrics
from service.types import Adapter
from service.workers import Workers

log = logging.getLogger(__name__)


class Judge:
    """`accepted` has the manifests of versions that may serve (None: unproven), `refused` the reasons of the others."""

    def __init__(
        self, store: Store, engine: Engine, proof: Proof, leases: Leases, workers: Workers, metrics: Metrics
    ) -> None:
        self._store, self._engine, self._proof = store, engine, proof
        self._leases, self._workers, self._metrics = leases, workers, metrics
        self.accepted: dict[Adapter, Manifest | None] = {}
        self.refused: dict[Adapter, AdapterRefused] = {}
        self._proven: set[Adapter] = set()  # to the engine that runs
        self._stamps: dict[Adapter, str] = {}

    async def examine(self, adapter: Adapter) -> Manifest | None:
        """Bring a version's files here and judge them, unless they were.

        Raises:
            AdapterRefused: see Store.fetch and Proof.examine.
            StoreUnavailable: the store cannot be read.
        """
        self._stamps[adapter] = await self._workers.run(self._store.stamp, adapter)
        await self._leases.fetch(adapter)
        if adapter in self.accepted:
            return self.accepted[adapter]
        with _refusing(adapter, "files"):
            return await self._workers.run(self._proof.examine, adapter)

    async def ask(self, adapter: Adapter, manifest: Manifest | None) -> None:
        """Accept a loaded version once it answers its probes; without a manifest there are none.

        Raises:
            AdapterRefused: see Proof.ask.
        """
        if adapter in self._proven:
            return
        if manifest is not None:
            with _refusing(adapter, "probe"):
                await self._proof.ask(self._engine, adapter, manifest)
        self.accepted[adapter] = manifest
        self._proven.add(adapter)
        log.info("adapter %s@%s %s", adapter.name, adapter.version[:12], "proven" if manifest else "taken unproven")

    def refuse(self, adapter: Adapter, error: AdapterRefused) -> None:
        """Keep and tell why a version does not serve."""
        self.accepted.pop(adapter, None)
        self._proven.discard(adapter)
        self.refused[adapter] = error
        self._metrics.rejected.labels(error.reason).inc()
        log.error("adapter %s refused (%s): %s", adapter.name, error.reason, error.message)

    def ask_again(self) -> None:
        """Have every version answer its probes once more when it is loaded: the engine is another."""
        self._proven.clear()

    async def look_again(self) -> None:
        """Forget the refusals of versions whose files changed."""
        for adapter in list(self.refused):
            if await self._workers.run(self._store.stamp, adapter) != self._stamps[adapter]:
                self.refused.pop(adapter, None)


@contextmanager
def _refusing(adapter: Adapter, reason: str) -> Iterator[None]:
    """Files made to hurt fail in ways no one foresaw; they must not keep other adapters from being judged."""
    try:
        yield
    except (AdapterRefused, EngineUnavailable):
        raise
    except Exception as error:
        raise AdapterRefused(reason, f"{adapter.key[:48]} cannot be judged: {error!r}") from error
