"""One service's adapters over a store, on a fake engine of its own, for tests and measurements without HTTP."""

import itertools
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager, suppress

from service.adapters.proof import Proof
from service.adapters.releases import Releases
from service.adapters.residency import Residency
from service.adapters.store import Store
from service.engine.fake import FakeEngine
from service.errors import StoreUnavailable
from service.metrics import Metrics
from service.types import Adapter, Query
from service.workers import Workers

_ids = itertools.count()


class Replica:
    """The adapters of one service on a fake engine that may have `capacity` versions loaded at once.

    The files of a deleted adapter are removed `grace_s` seconds after it was deleted.
    """

    def __init__(self, store: Store, proof: Proof, capacity: int = 4, grace_s: float = 0.0) -> None:
        self._store, self._proof, self._capacity, self._grace_s = store, proof, capacity, grace_s
        self.engine = FakeEngine()
        self.build(Workers(2))

    def build(self, workers: Workers) -> None:
        """Make the parts anew over `engine`, as a restart of the service would; `workers` read the store."""
        self.metrics = Metrics()
        self.residency = Residency(
            self._store, self.engine, self._proof, workers, self.metrics, self._capacity, self._grace_s
        )
        self.releases = Releases(self._store, self.residency, workers)

    async def ask(self, reference: str, key: str | None = None) -> tuple[Adapter, str]:
        """Ask one question; returns the version that answered, and the first word of its answer.

        The fake engine's first word depends on the adapter's weights alone.

        Raises: what `Residency.lease` and `Lease.loaded` raise.
        """
        with self.residency.lease(reference, False, key) as lease:
            async with lease.loaded() as adapter:
                assert adapter is not None
                query = Query(f"q-{next(_ids)}", (1, 2, 3), (), adapter)
                async with aclosing(self.engine.generate(query)) as deltas:
                    text = "".join([delta.text async for delta in deltas])
        return adapter, text.split()[0]

    def metric(self, name: str, **labels: str) -> float:
        """The value of a metric's series; 0 where there is none."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def running(store: Store, proof: Proof, capacity: int = 4, grace_s: float = 0.0) -> AsyncGenerator[Replica, None]:
    """A replica that has read the store and loaded what is pinned; stopped when the block ends."""
    replica = Replica(store, proof, capacity, grace_s)
    await replica.engine.start()
    with suppress(StoreUnavailable):
        await replica.residency.reconcile()
    yield replica
    await replica.residency.close()
    await replica.engine.stop()
