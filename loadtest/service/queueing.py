"""`python -m loadtest.service.queueing`: the table of docs/explanation/fairness.md, simulated.

It compares our queue with one that knows which adapter floods.

A request holds a slot for one unit of time on average. Every adapter but one offers 95% of its share. That one offers
nothing for the first half of the time, and then either nothing or ten times its share. Requests that come in the second
half are counted. A turn costs as much as its hold lasted, as in the service, which the queue is told when the hold
ends.
"""

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from loadtest.client import percentile
from service.turns import FairQueue, Ticket

_LOAD, _FLOOD, _HOT = 0.95, 10.0, "hot"
_WAITING, _SEEDS, _TURNS = 256, 3, 16000
_CASES = ((32, 4), (32, 8), (32, 16), (32, 64), (8, 4), (8, 8), (8, 16), (8, 64), (4, 8), (2, 4))


class _Queue(Protocol):
    """The methods of service.turns.FairQueue that are used here."""

    def __len__(self) -> int: ...
    def push(self, ticket: Ticket) -> None: ...
    def take(self) -> Ticket: ...
    def settle(self, ticket: Ticket, cost: float) -> None: ...
    def drop(self, newcomer: Ticket) -> Ticket: ...


class Last:
    """A queue that knows the flood: its tickets go after all others, which go in order of arrival."""

    def __init__(self) -> None:
        self._others, self._flood = deque[Ticket](), deque[Ticket]()

    def __len__(self) -> int:
        return len(self._others) + len(self._flood)

    def push(self, ticket: Ticket) -> None:
        """See FairQueue."""
        (self._flood if ticket.adapter == _HOT else self._others).append(ticket)

    def take(self) -> Ticket:
        """See FairQueue."""
        return (self._others or self._flood).popleft()

    def settle(self, ticket: Ticket, cost: float) -> None:
        """Do nothing: costs play no part in this order."""

    def drop(self, newcomer: Ticket) -> Ticket:  # noqa: ARG002 - the flood gives way
        """See FairQueue."""
        return (self._flood or self._others).pop()


@dataclass(frozen=True, slots=True)
class Waits:
    """95th percentiles of the requests of all adapters but the flood's: of the wait, and of wait and hold."""

    wait: float
    whole: float


def p95(make: Callable[[], _Queue], adapters: int, slots: int, flood: float) -> Waits:
    """The percentiles over all seeds, for a queue that `make` makes; the hot adapter offers `flood` times its share."""
    others = list(itertools.chain(*(_simulate(make(), adapters, slots, flood, seed) for seed in range(_SEEDS))))
    waits, wholes = sorted(wait for wait, _ in others), sorted(wait + hold for wait, hold in others)
    return Waits(percentile(waits, 95), percentile(wholes, 95))


def _simulate(queue: _Queue, adapters: int, slots: int, flood: float, seed: int) -> list[tuple[float, float]]:
    """The wait and the hold of each request of the others that comes once the flood has begun."""
    arrivals = _arrivals(adapters, slots, flood, seed)
    ends, free = list[tuple[float, int, Ticket, float]](), slots
    about, found = dict[Ticket, tuple[float, float]](), list[tuple[float, float, float]]()
    for came, adapter, hold in [*arrivals, (math.inf, "", 0.0)]:
        while ends and ends[0][0] <= came:
            now, _, done, lasted = heapq.heappop(ends)
            queue.settle(done, lasted)
            free += 1
            free -= _hand_out(queue, free, now, about, ends, found)
        if adapter:
            ticket = Ticket("", adapter)
            about[ticket] = came, hold
            queue.push(ticket)
            free -= _hand_out(queue, free, came, about, ends, found)
            if len(queue) > _WAITING:
                queue.drop(ticket)
    return [(wait, hold) for came, wait, hold in found if came >= _half(slots)]


def _hand_out(
    queue: _Queue,
    free: int,
    now: float,
    about: dict[Ticket, tuple[float, float]],
    ends: list[tuple[float, int, Ticket, float]],
    found: list[tuple[float, float, float]],
) -> int:
    """Give `free` slots to waiting tickets; returns how many were taken."""
    taken = min(free, len(queue))
    for _ in range(taken):
        ticket = queue.take()
        came, hold = about.pop(ticket)
        heapq.heappush(ends, (now + hold, id(ticket), ticket, hold))
        if ticket.adapter != _HOT:
            found.append((came, now - came, hold))
    return taken


def _arrivals(adapters: int, slots: int, flood: float, seed: int) -> list[tuple[float, str, float]]:
    """When each request comes, of which adapter, and how long it will hold its slot; in order."""
    share, half = slots / adapters, _half(slots)
    rates = {f"a{number}": _LOAD * share for number in range(adapters - 1)} | {_HOT: flood * share}
    found = []
    for name, rate in rates.items():
        draw, now = random.Random(f"{seed}{name}"), half if name == _HOT else 0.0
        while rate and (now := now + draw.expovariate(rate)) < 2 * half:
            found.append((now, name, draw.expovariate(1)))
    return sorted(found)


def _half(slots: int) -> float:
    """The time at which the flood begins."""
    return _TURNS / slots / 2


def _erlang(slots: int, load: float) -> float:
    """Erlang's C: the probability that all of `slots` slots are taken, where they are busy `load` (0 to 1) of the time.

    The recurrence is Erlang's B for 1, 2 ... slots, from which C follows.
    """
    blocked = 1.0
    for number in range(1, slots + 1):
        blocked = slots * load * blocked / (number + slots * load * blocked)
    return blocked / (1 - load * (1 - blocked))


def main() -> None:
    """Print the table."""
    print("| adapters | slots | ρ | C | least ratio | without | with | `last` with | ratio | of whole requests |")
    print("|" + "---:|" * 10)
    for adapters, slots in _CASES:
        load = _LOAD * (adapters - 1) / adapters
        waits = _erlang(slots, load)
        least = math.log(20) / math.log(20 * waits)
        without, with_ = (p95(FairQueue, adapters, slots, flood) for flood in (0.0, _FLOOD))
        last = p95(Last, adapters, slots, _FLOOD)
        times = [without.wait, with_.wait, last.wait, with_.wait / without.wait, with_.whole / without.whole]
        figures = [load, waits, least, *times]
        print("|", " | ".join([str(adapters), str(slots), *(f"{figure:.2f}" for figure in figures)]), "|", flush=True)


if __name__ == "__main__":
    main()
