"""Who goes next: a queue that is fair between tenants and, within a tenant, between adapters. No clock, no asyncio.

Start-time fair queueing: a turn moves a flow's own virtual time on by one, and the flow that is furthest behind goes
next. Virtual time never goes back, so waiting is ageing: each other flow passes a waiting ticket a bounded number of
times. A flow that asks for less than its share lags behind, by CREDIT turns at most, and so goes before one that asks
for more, however many of its tickets wait. Priority is a head start, paid back by the flow's own later turns.
"""

import bisect
from dataclasses import dataclass
from typing import Protocol

# Turns that a flow may save up by asking for less than its share: how large a burst of it goes first.
CREDIT = 16
# Turns by which one step of priority goes ahead.
HEAD_START = 4


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """One request's place; no two are the same. `adapter` is a name, not a version."""

    tenant: str = ""
    adapter: str = ""
    priority: int = 0


class _Queue(Protocol):
    def __len__(self) -> int: ...
    def first(self) -> Ticket: ...
    def push(self, ticket: Ticket) -> None: ...
    def take(self) -> Ticket: ...
    def drop(self, newcomer: Ticket) -> Ticket: ...
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

    def drop(self, newcomer: Ticket) -> Ticket:  # noqa: ARG002 - a line has one last ticket
        return self._waiting.pop()[2]

    def remove(self, ticket: Ticket) -> None:
        self._waiting = [place for place in self._waiting if place[2] is not ticket]


class _Turns:
    """Queues, told apart by one field of their tickets, that take turns."""

    def __init__(self, field: str, *fields: str) -> None:
        self._field, self._fields = field, fields
        self._now = 0.0
        # Up to which virtual time each queue had its share; queues that ever waited, and those that wait now.
        self._had: dict[str, float] = {}
        self._queues: dict[str, _Queue] = {}
        self._waiting: dict[str, _Queue] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def first(self) -> Ticket:
        """The ticket that goes next."""
        return self._waiting[self._next()].first()

    def push(self, ticket: Ticket) -> None:
        """Let a ticket wait."""
        name = getattr(ticket, self._field)
        if name not in self._waiting:
            self._had[name] = max(self._had.get(name, 0.0), self._now - CREDIT)
            if name not in self._queues:
                self._queues[name] = _Turns(*self._fields) if self._fields else _Line()
            self._waiting[name] = self._queues[name]
        self._waiting[name].push(ticket)

    def take(self) -> Ticket:
        """The ticket that goes next, which waits no more."""
        name = self._next()
        self._now = max(self._now, min(self._had[name] for name in self._waiting))
        self._had[name] += 1
        ticket = self._waiting[name].take()
        self._tidy(name)
        return ticket

    def drop(self, newcomer: Ticket) -> Ticket:
        """The last ticket of the longest queue, the newcomer's where two are, which waits no more."""
        own = getattr(newcomer, self._field)
        name = max(self._waiting, key=lambda name: (len(self._waiting[name]), name == own))
        ticket = self._waiting[name].drop(newcomer)
        self._tidy(name)
        return ticket

    def remove(self, ticket: Ticket) -> None:
        """Take a ticket out, wherever it stands, at no cost to its queue; one that does not wait is no error."""
        name = getattr(ticket, self._field)
        if name in self._waiting:
            self._waiting[name].remove(ticket)
            self._tidy(name)

    def _next(self) -> str:
        return min(self._waiting, key=lambda name: self._had[name] - HEAD_START * self._waiting[name].first().priority)

    def _tidy(self, name: str) -> None:
        if not self._waiting[name]:
            del self._waiting[name]


class FairQueue(_Turns):
    """Tenants take turns, and within a tenant its adapters do."""

    def __init__(self) -> None:
        super().__init__("tenant", "adapter")
