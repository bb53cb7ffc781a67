"""`make fleet`: a simulated fleet of replicas: routing by adapter against round robin, and autoscaling with its lag.

Requests come as a Poisson process, their adapters by Zipf's law. A replica works on `slots` of them at once, in order
of arrival. Each takes an exponentially distributed time, and first waits for its adapter to be loaded, in place of the
one used longest ago, where the replica does not have it loaded. Three ways to choose a replica: `robin`, one after the
other; `least`, the one with the fewest requests of two picked at random; `affinity`, where the adapter's hash says, or
the next on the ring whose requests are under 1.25 times the fleet's mean (consistent hashing with bounded loads:
Mirrokni, Thorup and Zadimoghaddam, SODA 2018).

It leaves out that a busy engine is slower for each request, and that loading an adapter holds up the engine's steps.
"""

import argparse
import bisect
import hashlib
import heapq
import itertools
import json
import math
import random
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from loadtest.client import percentile

_POINTS = 64  # of each replica on the ring
_BOUND = 1.25


@dataclass(frozen=True)
class Fleet:
    """Replicas and their load; times are in seconds.

    `busy` is the load as a share of what `replicas` can do where no adapter has to be loaded; `service_s` is the mean
    of a request's time in a slot. A replica has `loaded` adapters loaded, and takes `load_s` to load one; `skew` is the
    exponent of Zipf's law. From a third of the time on the rate is `surge` times as high. Every `scale_s` the scaler
    asks for replicas, which serve `start_s` later; with `start_s` 0 there is no scaler.
    """

    replicas: int
    adapters: int
    routing: str
    busy: float = 0.7
    slots: int = 16
    service_s: float = 1.0
    loaded: int = 256
    load_s: float = 0.5
    skew: float = 1.0
    requests: int = 200_000
    surge: float = 1.0
    scale_s: float = 15.0
    start_s: float = 0.0
    patience_s: float = 30.0

    @property
    def rate(self) -> float:
        """Requests a second before any surge."""
        return self.busy * self.replicas * self.slots / self.service_s


@dataclass
class Replica:
    """One replica: `free` are the times at which its slots come free, `ends` those at which its requests end.

    `has` are its loaded adapters, the one used last at the end; it serves from the time `from_` on.
    """

    slots: int
    from_: float = 0.0
    free: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    has: OrderedDict[int, None] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        self.free = [self.from_] * self.slots

    def count(self, now: float) -> int:
        """The requests that it has at `now`, waiting or in a slot; `now` may not go back."""
        while self.ends and self.ends[0] <= now:
            heapq.heappop(self.ends)
        return len(self.ends)

    def take(self, now: float, adapter: int, work: float, fleet: Fleet) -> tuple[float, bool]:
        """Take a request of `work` seconds; returns when its work begins, and whether its adapter was loaded."""
        hit = adapter in self.has
        self.has[adapter] = None
        self.has.move_to_end(adapter)
        if len(self.has) > fleet.loaded:
            self.has.popitem(last=False)
        start = max(now, self.free[0]) + (0.0 if hit else fleet.load_s)
        heapq.heapreplace(self.free, start + work)
        heapq.heappush(self.ends, start + work)
        return start, hit


@dataclass(frozen=True)
class Found:
    """Results: `hit` is the share of requests whose adapter was loaded, the percentiles are of the wait before work.

    `late` is the share of requests that waited over `patience_s` (they are answered all the same), `loads_per_s` the
    adapters that one replica loads in a second, `most` the number of replicas at the end.
    """

    hit: float
    p50_s: float
    p95_s: float
    p99_s: float
    late: float
    loads_per_s: float
    most: int


Choose = Callable[[Sequence[Replica], float, int, int], Replica]


def simulate(fleet: Fleet, seed: int = 0) -> Found:
    """Simulate the fleet; the first fifth of the requests fills it and is not counted."""
    dice = random.Random(seed)
    replicas = [Replica(fleet.slots) for _ in range(fleet.replicas)]
    choose, waits, hits, misses = _chooser(fleet.routing, dice), list[float](), 0, 0
    scaled, now, since = fleet.scale_s, 0.0, 0.0
    for number, (now, adapter) in enumerate(_arrivals(fleet, dice)):
        if fleet.start_s and now >= scaled:
            _scale(replicas, fleet, now)
            scaled = now + fleet.scale_s
        ready = [each for each in replicas if each.from_ <= now] if fleet.start_s else replicas
        start, hit = choose(ready, now, adapter, number).take(
            now, adapter, dice.expovariate(1 / fleet.service_s), fleet
        )
        if number == fleet.requests // 5:
            since = now
        if number >= fleet.requests // 5:
            waits.append(start - now)
            hits, misses = hits + hit, misses + (not hit)
    waits.sort()
    p50, p95, p99 = (round(percentile(waits, percent), 3) for percent in (50, 95, 99))
    late = sum(wait > fleet.patience_s for wait in waits) / len(waits)
    loads = misses / max(1e-9, now - since) / len(replicas)
    return Found(round(hits / len(waits), 4), p50, p95, p99, round(late, 4), round(loads, 3), len(replicas))


def _arrivals(fleet: Fleet, dice: random.Random) -> Iterator[tuple[float, int]]:
    """When each request comes and which adapter it asks; the first adapter is asked most."""
    weights = list(itertools.accumulate(1 / (place + 1) ** fleet.skew for place in range(fleet.adapters)))
    now, third = 0.0, fleet.requests / fleet.rate / 3
    for _ in range(fleet.requests):
        now += dice.expovariate(fleet.rate * (fleet.surge if now > third else 1.0))
        yield now, bisect.bisect_left(weights, dice.random() * weights[-1])


def _chooser(routing: str, dice: random.Random) -> Choose:
    if routing == "robin":
        return lambda replicas, _, __, number: replicas[number % len(replicas)]
    if routing == "least":
        return lambda replicas, now, _, __: min(dice.choices(replicas, k=2), key=lambda each: each.count(now))
    return _Ring()


class _Ring:
    """Consistent hashing with bounded loads; the fleet's requests are counted on a sample of replicas."""

    def __init__(self) -> None:
        self._points: list[tuple[int, int]] = []
        self._size = 0

    def __call__(self, replicas: Sequence[Replica], now: float, adapter: int, number: int) -> Replica:
        if len(replicas) != self._size:
            self._size = len(replicas)
            points = itertools.product(range(self._size), range(_POINTS))
            self._points = sorted((_hash(f"{place}/{point}"), place) for place, point in points)
        sample = replicas[number % self._size :][:16] or replicas
        bound = math.ceil(_BOUND * (1 + sum(each.count(now) for each in sample) / len(sample)))
        at = bisect.bisect(self._points, (_hash(f"adapter {adapter}"), 0))
        seen = set[int]()
        for step in range(len(self._points)):
            place = self._points[(at + step) % len(self._points)][1]
            if place not in seen and replicas[place].count(now) < bound:
                return replicas[place]
            seen.add(place)
        return replicas[self._points[at % len(self._points)][1]]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def _scale(replicas: list[Replica], fleet: Fleet, now: float) -> None:
    """Ask for as many replicas as bring their requests down to `busy` of their slots; those that start count too."""
    wanted = math.ceil(sum(each.count(now) for each in replicas) / fleet.slots / fleet.busy)
    replicas += [
        Replica(fleet.slots, now + fleet.start_s) for _ in range(min(wanted, 4 * fleet.replicas) - len(replicas))
    ]


def main(arguments: list[str]) -> int:
    """Print a JSON line for each fleet; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.load.fleet", description=__doc__.splitlines()[0])
    parser.add_argument("--service-s", type=float, default=1.0, help="seconds of an answer on a busy replica")
    parser.add_argument("--slots", type=int, default=16, help="requests that a replica works on at once")
    parser.add_argument("--loaded", type=int, default=256, help="adapters that a replica keeps in memory")
    parser.add_argument("--load-s", type=float, default=0.5, help="seconds to fetch and load an adapter")
    parser.add_argument("--start-s", type=float, default=120.0, help="seconds until a new replica serves")
    parser.add_argument("--requests", type=int, default=200_000, help="requests of each fleet")
    given = parser.parse_args(arguments)
    small = Fleet(
        8, 1000, "robin", service_s=given.service_s, slots=given.slots, loaded=given.loaded, load_s=given.load_s,
        requests=given.requests,
    )  # fmt: skip
    for replicas, adapters in ((8, 1000), (64, 20_000), (1000, 1_000_000)):
        for routing in ("robin", "least", "affinity"):
            # Enough that caches are full before what counts begins.
            requests = max(given.requests, 5 * replicas * given.loaded)
            fleet = replace(small, replicas=replicas, adapters=adapters, routing=routing, requests=requests)
            _tell("routing", fleet, simulate(fleet))
    for start_s in (0.0, 20.0, given.start_s, 3 * given.start_s):
        fleet = replace(small, routing="affinity", surge=2.0, start_s=start_s, scale_s=15.0)
        _tell("a surge to twice the load", fleet, simulate(fleet))
    return 0


def _tell(case: str, fleet: Fleet, found: Found) -> None:
    line = {"bench": "fleet", "case": case, "replicas": fleet.replicas, "adapters": fleet.adapters}
    print(json.dumps(line | {"routing": fleet.routing, "start_s": fleet.start_s} | found.__dict__), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
