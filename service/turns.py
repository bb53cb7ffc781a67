"""Which waiting request goes next: fair between tenants, and between the adapters of a tenant. No clock, no asyncio.

A turn is one request's use of a slot; a flow is a tenant, or one adapter of a tenant. The order is start-time fair
queueing (Goyal, Vin and Cheng, SIGCOMM 1996) with savings:

- Each flow has a virtual time, which every turn moves on by what it costs. A turn costs 1 when it is taken, since
  nobody knows yet how long its answer will be; `settle` charges or gives back the difference once that is known. So
  flows share the work, not the number of turns.
- The queue has a virtual time too, which does not go back: the earliest due time of a ticket when the last turn was
  taken. A ticket is due at its flow's virtual time, or at the queue's when it came if that is later. Who is due first
  goes first; of those due at the same time, flows with savings before others, and then in order of arrival.
- Savings are how far a flow's virtual time is behind the queue's, at most CREDIT turns: it asked for less than its
  share. While it has some, its tickets are due when they come.
- A flow that has more than CROWD tickets waiting, and no fewer than flows have on average, is a flood: it loses its
  savings.
- A turn that no other flow waits for costs its flow nothing, for the queue's virtual time moves on with it. So a quiet
  hour leaves every flow its savings, the busiest too.
- The due time of a flow's first ticket stays, and each turn moves the other flows' on by LEAST or more: each of them
  passes the ticket a bounded number of times.
- A step of priority lets a ticket go HEAD_START turns earlier. Its turn costs as any other does, so that its flow's
  later tickets go later for it.

docs/explanation/fairness.md has what this reaches, and what no queue can.
"""

import bisect
import math
from dataclasses import dataclass
from typing import Protocol

# Turns that a flow may save up by asking for less than its share, for when it happens to ask for more.
CREDIT = 128
# Tickets that a flow may have waiting without losing its savings, however few the others have.
CROWD = 8
# Turns by which one step of priority lets a ticket go earlier.
HEAD_START = 4
# The least that a turn costs: turns that cost nothing could pass a waiting ticket without bound.
LEAST = 1 / 8


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """One waiting request; two tickets are never equal. `adapter` is a name, not a version."""

    tenant: str = ""
    adapter: str = ""
    priority: int = 0


class _Queue(Protocol):
    def __len__(self) -> int: ...
    def first(self) -> Ticket: ...
    def push(self, ticket: Ticket) -> None: ...
    def take(self) -> Ticket: ...
    def settle(self, ticket: Ticket, cost: float) -> None: ...
    def drop(self, newcomer: Ticket) -> Ticket: ...
    def spares(self, newcomer: Ticket) -> bool: ...
    def remove(self, ticket: Ticket) -> None: ...


class _Line:
    """Tickets of one tenant and adapter in order of arrival, a step of priority being worth HEAD_START places."""

    def __init__(self) -> None:
        self._arrived = 0
        self._waiting: list[tuple[int, int, Ticket]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def first(self) -> Ticket:
        return self._waiting[0][2]

    def push(self, ticket: Ticket) -> None:
        self._arrived += 1
        bisect.insort(self._waiting, (self._arrived - HEAD_START * ticket.priority, self._arrived, ticket))

    def take(self) -> Ticket:
        return self._waiting.pop(0)[2]

    def settle(self, ticket: Ticket, cost: float) -> None:
        """Do nothing: the tickets of one line are of one flow, which the queue above charges."""

    def drop(self, newcomer: Ticket) -> Ticket:  # noqa: ARG002 - a line has one last ticket
        return self._waiting.pop()[2]

    def spares(self, newcomer: Ticket) -> bool:
        return bool(self) and self._waiting[-1][0] > self._arrived + 1 - HEAD_START * newcomer.priority

    def remove(self, ticket: Ticket) -> None:
        self._waiting = [place for place in self._waiting if place[2] is not ticket]


class _Turns:
    """A queue for each value of one field of the tickets (a flow), of which one at a time gives the next ticket."""

    def __init__(self, field: str, *fields: str) -> None:
        self._field, self._fields = field, fields
        self._now = 0.0
        # When each waiting ticket came: in virtual time, and its number among all.
        self._came: dict[Ticket, tuple[float, int]] = {}
        self._number = 0
        # Each flow's virtual time; the queues of flows that ever waited, and of those that wait now.
        self._had: dict[str, float] = {}
        self._queues: dict[str, _Queue] = {}
        self._waiting: dict[str, _Queue] = {}

    def __len__(self) -> int:
        return len(self._came)

    def first(self) -> Ticket:
        """The ticket that goes next; there must be one."""
        return self._waiting[self._next()].first()

    def push(self, ticket: Ticket) -> None:
        """Add a ticket to those that wait."""
        name = getattr(ticket, self._field)
        if name not in self._waiting:
            self._had[name] = max(self._had.get(name, -math.inf), self._now - CREDIT)
            if name not in self._queues:
                self._queues[name] = _Turns(*self._fields) if self._fields else _Line()
            self._waiting[name] = self._queues[name]
        self._waiting[name].push(ticket)
        self._number += 1
        self._came[ticket] = (self._now, self._number)
        if max(CROWD + 1, len(self) / len(self._waiting)) <= len(self._waiting[name]):
            self._had[name] = max(self._had[name], self._now)

    def take(self) -> Ticket:
        """Remove and return the ticket that goes next, and charge its flow one turn; there must be one."""
        name = self._next()
        alone = len(self._waiting) == 1
        self._now = max(self._now + alone, min(self._due(name)[0] for name in self._waiting))
        self._had[name] += 1
        return self._leave(name, self._waiting[name].take())

    def settle(self, ticket: Ticket, cost: float) -> None:
        """Charge a ticket's flow what its turn cost, in turns, less the 1 that `take` charged; once for a ticket."""
        name, more = getattr(ticket, self._field), max(cost, LEAST) - 1
        if not self._waiting.keys() - {name}:  # nobody else waits: what it took costs nothing, as in `take`
            self._now += max(more, 0.0)
        self._had[name] = max(self._had[name] + more, self._now - CREDIT)
        self._queues[name].settle(ticket, cost)

    def drop(self, newcomer: Ticket) -> Ticket:
        """Remove and return the last ticket of the longest queue; of two as long, of the newcomer's own."""
        own = getattr(newcomer, self._field)
        name = max(self._waiting, key=lambda name: (len(self._waiting[name]), name == own))
        return self._leave(name, self._waiting[name].drop(newcomer))

    def spares(self, newcomer: Ticket) -> bool:
        """Whether `drop` would return another ticket than the newcomer, had that been pushed; changes nothing."""
        own = getattr(newcomer, self._field)
        length = len(self._waiting.get(own, ())) + 1
        if any(len(queue) > length for queue in self._waiting.values()):
            return True
        return own in self._queues and self._queues[own].spares(newcomer)

    def remove(self, ticket: Ticket) -> None:
        """Remove a ticket, wherever it stands, at no cost to its flow; does nothing where it does not wait."""
        if ticket in self._came:
            name = getattr(ticket, self._field)
            self._waiting[name].remove(ticket)
            self._leave(name, ticket)

    def _next(self) -> str:
        return min(self._waiting, key=self._order)

    def _order(self, name: str) -> tuple[float, bool, int]:
        due, spent, number = self._due(name)
        return due - HEAD_START * self._waiting[name].first().priority, spent, number

    def _due(self, name: str) -> tuple[float, bool, int]:
        """When a flow's next ticket is due, in virtual time; whether its savings are spent; the ticket's number."""
        came, number = self._came[self._waiting[name].first()]
        return max(came, self._had[name]), came <= self._had[name], number

    def _leave(self, name: str, ticket: Ticket) -> Ticket:
        del self._came[ticket]
        if not self._waiting[name]:
            del self._waiting[name]
        return ticket


class FairQueue(_Turns):
    """The flows are tenants, and within a tenant its adapters."""

    def __init__(self) -> None:
        super().__init__("tenant", "adapter")
