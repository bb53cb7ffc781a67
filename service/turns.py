"""Who goes next: a queue that is fair between tenants and, within a tenant, between adapters. No clock, no asyncio.

Start-time fair queueing with savings: a turn moves a flow's own virtual time on by what it costs, and a ticket is due
when its flow's time comes, or when it came if that is later. A turn costs one when it is taken, since nobody knows yet
how long its answer will be; `settle` charges or gives back the difference once that is known. So flows share the work,
not the number of turns. A flow that asks for less than its share lags behind, by CREDIT
turns at most, and what it asks is due at once; tickets due at once go in order of arrival. So those within their share
are served as in one line that a flood stands at the end of. Who has more than CROWD tickets waiting, and no fewer than
the others on average, is a flood: its savings are void. A turn that no other flow waits for costs its flow nothing:
virtual time moves on with it, so that a quiet hour leaves everybody all they may save, the busiest too. Virtual time
never goes back, and stands while tickets that came earlier are passed, so waiting is ageing: each other flow passes a
waiting ticket a bounded number of times. Priority is a head start, paid back by the flow's own later turns.
docs/explanation/fairness.md has what this reaches, and what no queue could.
"""

import bisect
import math
from dataclasses import dataclass
from typing import Protocol

# Turns that a flow may save up by asking for less than its share, for the times when chance has it ask for more.
CREDIT = 128
# Tickets that a flow may have waiting and keep its savings, whatever others have: a burst as large is due at once.
CROWD = 8
# Turns by which one step of priority goes ahead.
HEAD_START = 4
# What a turn costs at the least: with none below, nothing that waits is passed without bound.
LEAST = 1 / 8


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
        """Tickets of one line pay nobody."""

    def drop(self, newcomer: Ticket) -> Ticket:  # noqa: ARG002 - a line has one last ticket
        return self._waiting.pop()[2]

    def spares(self, newcomer: Ticket) -> bool:
        return bool(self) and self._waiting[-1][0] > self._arrived + 1 - HEAD_START * newcomer.priority

    def remove(self, ticket: Ticket) -> None:
        self._waiting = [place for place in self._waiting if place[2] is not ticket]


class _Turns:
    """Queues, told apart by one field of their tickets, that take turns."""

    def __init__(self, field: str, *fields: str) -> None:
        self._field, self._fields = field, fields
        self._now = 0.0
        # When each waiting ticket came: in virtual time, and its number among all.
        self._came: dict[Ticket, tuple[float, int]] = {}
        self._number = 0
        # Up to which virtual time each queue had its share; queues that ever waited, and those that wait now.
        self._had: dict[str, float] = {}
        self._queues: dict[str, _Queue] = {}
        self._waiting: dict[str, _Queue] = {}

    def __len__(self) -> int:
        return len(self._came)

    def first(self) -> Ticket:
        """The ticket that goes next."""
        return self._waiting[self._next()].first()

    def push(self, ticket: Ticket) -> None:
        """Let a ticket wait."""
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
        """The ticket that goes next, which waits no more."""
        name = self._next()
        alone = len(self._waiting) == 1
        self._now = max(self._now + alone, min(self._due(name)[0] for name in self._waiting))
        self._had[name] += 1
        return self._leave(name, self._waiting[name].take())

    def settle(self, ticket: Ticket, cost: float) -> None:
        """Say what the turn of a ticket that was taken did cost, in turns: its queue paid one. Once for each ticket."""
        name, more = getattr(ticket, self._field), max(cost, LEAST) - 1
        if not self._waiting.keys() - {name}:  # nobody else waits: what it took costs nothing, as in `take`
            self._now += max(more, 0.0)
        self._had[name] = max(self._had[name] + more, self._now - CREDIT)
        self._queues[name].settle(ticket, cost)

    def drop(self, newcomer: Ticket) -> Ticket:
        """The last ticket of the longest queue, the newcomer's where two are, which waits no more."""
        own = getattr(newcomer, self._field)
        name = max(self._waiting, key=lambda name: (len(self._waiting[name]), name == own))
        return self._leave(name, self._waiting[name].drop(newcomer))

    def spares(self, newcomer: Ticket) -> bool:
        """Whether `drop` would take another ticket, had the newcomer been pushed; it changes nothing."""
        own = getattr(newcomer, self._field)
        length = len(self._waiting.get(own, ())) + 1
        if any(len(queue) > length for queue in self._waiting.values()):
            return True
        return own in self._queues and self._queues[own].spares(newcomer)

    def remove(self, ticket: Ticket) -> None:
        """Take a ticket out, wherever it stands, at no cost to its queue; one that does not wait is no error."""
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
        """When a queue's next ticket is due, in virtual time; whether its savings are spent; its number.

        Of those due at the same time, who has savings goes first.
        """
        came, number = self._came[self._waiting[name].first()]
        return max(came, self._had[name]), came <= self._had[name], number

    def _leave(self, name: str, ticket: Ticket) -> Ticket:
        del self._came[ticket]
        if not self._waiting[name]:
            del self._waiting[name]
        return ticket


class FairQueue(_Turns):
    """Tenants take turns, and within a tenant its adapters do."""

    def __init__(self) -> None:
        super().__init__("tenant", "adapter")
