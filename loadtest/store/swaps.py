"""`make bench-swaps`: more adapters than may be loaded at once, asked while they are swapped and deleted.

Prints one JSON line. Three counts must be 0: `wrong` (the answer of another adapter or version), `lost` (no answer, of
an adapter that was not deleted) and `untyped` (an error that is no ServiceError). tests/test_adapters_residency.py runs
a small case.
"""

import asyncio
import json
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import Field
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict

from loadtest.store.replica import Replica, running
from loadtest.store.stores import Maker
from service.adapters.base import Base
from service.adapters.proof import Proof
from service.adapters.store import Store, digest
from service.errors import AdapterNotFound, ServiceError
from service.prompt import Prompt

_POLL_S, _STEP_S, _PATIENCE_S = 0.02, 0.001, 60.0


class Swaps(BaseSettings):
    """Ask more adapters than may be loaded at once while they are swapped and deleted, and count what goes wrong."""

    model_config = SettingsConfigDict(
        frozen=True, env_prefix="MANYLENS_", cli_kebab_case=True, cli_prog_name="python -m loadtest.store.swaps"
    )

    requests: int = Field(10_000, gt=0, description="requests in all")
    rate: float = Field(250.0, gt=0, description="requests that come in a second, at random")
    adapters: int = Field(24, ge=6, description="adapters; every other one is swapped, every sixth deleted")
    slots: int = Field(4, gt=0, description="adapters that are loaded at once")
    versions: int = Field(8, ge=1, description="versions that each swapped adapter goes through")
    model: Path = Field(Path("models/tiny-llava-int4"), description="the base checkpoint")
    store: Path = Field(Path("models/adapters"), description="where `digits` is, of which all adapters are made")


@dataclass(frozen=True, slots=True)
class Swapped:
    """How the requests ended, the most adapters loaded at once, all loads, and each swapped adapter's last version."""

    ends: Counter[str]
    most: int
    loads: int
    last: dict[str, str]


def main(arguments: list[str]) -> int:
    """Measure and print; returns the exit status: 1 where anything is wrong, lost or untyped."""
    options = CliApp.run(Swaps, cli_args=arguments)
    proof = Proof.for_checkpoint(options.model, Base.of_checkpoint(options.model), Prompt(options.model), 64)
    maker, started = Maker(Store(options.store).stable("digits"), proof), time.perf_counter()
    with TemporaryDirectory() as directory:
        swapped = asyncio.run(swap(Store(directory), proof, maker, options))
    counts = {end: swapped.ends[end] for end in ("right", "gone", "wrong", "lost", "untyped")}
    sizes = {"requests": options.requests, "adapters": options.adapters, "slots": options.slots}
    figures = {"loads": swapped.loads, "seconds": round(time.perf_counter() - started, 1)}
    print(json.dumps({"bench": "swaps", **sizes, **counts, **figures}))
    return int(any(counts[end] for end in ("wrong", "lost", "untyped")) or swapped.most > options.slots)


async def swap(store: Store, proof: Proof, maker: Maker, options: Swaps) -> Swapped:
    """Ask at random times and of random adapters while they change."""
    load = _Load(store, maker, options)
    await load.publish()
    async with running(store, proof, options.slots) as replica:
        replica.engine.step_s = _STEP_S
        watching = asyncio.create_task(replica.residency.follow(_POLL_S))
        ends, *_ = await asyncio.gather(load.ask_all(replica), load.swap_all(), load.delete_some(replica))
        watching.cancel()
        await replica.residency.reconcile()
        last = {name: (await replica.ask(name))[0].version for name in load.later}
    return Swapped(ends, replica.engine.most, replica.engine.loads, last)


class _Load:
    """The requests and the changes: every other adapter is swapped, every sixth deleted."""

    def __init__(self, store: Store, maker: Maker, options: Swaps) -> None:
        self._store, self._maker, self._options = store, maker, options
        self._seconds = options.requests / options.rate
        self._names = [f"a{number}" for number in range(options.adapters)]
        self._versions: dict[str, set[str]] = {}
        self._deleted: set[str] = set()
        versions = range(1, options.versions + 1)
        self.later = {name: [f"{name}.{number}" for number in versions] for name in self._names[1::2]}

    async def publish(self) -> None:
        """Publish every adapter's first version, and make all that come later."""
        for name in self._names:
            self._versions[name] = {self._store.publish(name, await self._maker.make(f"{name}.0")).version}
        for name, labels in self.later.items():
            self._versions[name] |= {digest(await self._maker.make(label)) for label in labels}

    async def swap_all(self) -> None:
        """Publish the later versions, one adapter after the other, round after round."""
        for number in range(self._options.versions):
            for name, labels in self.later.items():
                await asyncio.to_thread(self._store.publish, name, await self._maker.make(labels[number]))
                await asyncio.sleep(0.8 * self._seconds / (self._options.versions * len(self.later)))

    async def delete_some(self, replica: Replica) -> None:
        """Delete every sixth adapter, one after the other."""
        doomed = self._names[::6]
        for name in doomed:
            await asyncio.sleep(self._seconds / (len(doomed) + 1))
            self._deleted.add(name)
            await replica.releases.delete(name)

    async def ask_all(self, replica: Replica) -> Counter[str]:
        """Send all requests at random times; returns how many ended in which way."""
        dice = random.Random(7)
        arrivals = [(dice.choice(self._names), dice.random()) for _ in range(self._options.requests)]
        return Counter(await asyncio.gather(*[self._ask(replica, name, when) for name, when in arrivals]))

    async def _ask(self, replica: Replica, name: str, when: float) -> str:
        await asyncio.sleep(when * self._seconds)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                adapter, mark = await replica.ask(name)
        except (ServiceError, TimeoutError) as error:
            return "gone" if isinstance(error, AdapterNotFound) and name in self._deleted else "lost"
        except Exception:
            return "untyped"
        right = adapter.name == name and adapter.version in self._versions[name]
        return "right" if right and mark == self._maker.sign[adapter.version] else "wrong"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
