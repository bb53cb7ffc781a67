"""The record of one version: its state and why, when it is tried again, how many requests use it. Data only.

`__init__.py` draws the states, `reconciler.py` alone changes a record.
"""

import asyncio
from dataclasses import dataclass, field
from enum import StrEnum

from service.adapters.verdicts import Verdict
from service.calibration import Calibration
from service.errors import AdapterNotFound, AdapterUnavailable, ServiceError, StoreUnavailable
from service.types import Adapter


class State(StrEnum):
    """The state of a version in this replica, as the drawing in `__init__.py` has them."""

    STORED = "stored"
    FETCHING = "fetching"
    HERE = "here"
    QUEUED = "queued"
    LOADING = "loading"
    SERVING = "serving"
    LEAVING = "leaving"
    UNREACHABLE = "unreachable"
    FAILED = "failed"
    REFUSED = "refused"


# The states that may follow each state; another would be a fault of the reconciler's.
MOVES: dict[State, frozenset[State]] = {
    State.STORED: frozenset({State.FETCHING}),
    State.FETCHING: frozenset({State.HERE, State.STORED, State.UNREACHABLE, State.REFUSED}),
    State.HERE: frozenset({State.QUEUED, State.STORED}),
    State.QUEUED: frozenset({State.LOADING, State.HERE}),
    State.LOADING: frozenset({State.SERVING, State.HERE, State.FAILED, State.UNREACHABLE}),
    State.SERVING: frozenset({State.LEAVING}),
    State.LEAVING: frozenset({State.STORED}),
    State.UNREACHABLE: frozenset({State.FETCHING, State.STORED}),
    State.FAILED: frozenset({State.FETCHING, State.STORED}),
    State.REFUSED: frozenset({State.STORED}),
}
BAD = frozenset({State.UNREACHABLE, State.FAILED, State.REFUSED})
# No engine and no task needs the files: they may go when no request holds them.
AT_REST = BAD | {State.STORED, State.HERE}
IN_ENGINE = frozenset({State.QUEUED, State.LOADING, State.SERVING, State.LEAVING})


@dataclass(frozen=True, slots=True)
class Status:
    """A version's state, and why: `reason` for programs, `message` for people.

    `retry_at` is when an unreachable or failed one is tried again, in seconds on the event loop's clock.
    """

    state: State = State.STORED
    reason: str | None = None
    message: str | None = None
    retry_at: float | None = None


@dataclass(eq=False, slots=True)
class Version:
    """One version in this replica; only the reconciler changes it.

    `holders` counts the requests that need its files, `users` those that have it in the engine; `waiting` has a future
    for each that waits for that. `sought`: the service itself wants it in the engine, since it is pinned or an alias
    waits to move to it. `stamp` is the stamp of its files when they were last read, `whole` the stamp at which their
    digest was right. `verdict` is None until it was judged, in this run or an earlier one; `engine` is the number of
    engines lost before it was proven. `places` is how many it takes in the engine (a mixture two), and `calibration`
    its calibration if it has one, both known once `whole` is set. `used` orders versions by their last use, and
    `failures` counts those in a row.
    """

    adapter: Adapter
    status: Status = Status()
    verdict: Verdict | None = None
    stamp: str | None = None
    whole: str | None = None
    places: int = 1
    calibration: Calibration | None = None
    engine: int = 0
    failures: int = 0
    holders: int = 0
    users: int = 0
    used: int = 0
    sought: bool = False
    waiting: list["asyncio.Future[None]"] = field(default_factory=list)
    task: "asyncio.Task[None] | None" = None
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def state(self) -> State:
        """Its state."""
        return self.status.state

    @property
    def calibrated(self) -> bool | None:
        """Whether it has a calibration; None before its files were on this machine."""
        return None if self.whole is None else self.calibration is not None

    @property
    def proven(self) -> bool:
        """Whether it may serve: its verdict says so."""
        return self.verdict is not None and self.verdict.reason is None

    @property
    def wanted(self) -> bool:
        """Whether a request waits for it to be loaded, or the service itself wants it loaded."""
        return bool(self.waiting) or self.sought

    def error(self, now: float) -> ServiceError:
        """The error for a request to a version that failed or was refused; `now` is on the event loop's clock."""
        name, why = self.adapter.name, self.status.message or ""
        retry_s = max(1, round((self.status.retry_at or now) - now))
        if self.state is State.REFUSED:
            return AdapterNotFound(f"adapter {name!r} was refused when it was loaded: {why}")
        if self.state is State.UNREACHABLE:
            return StoreUnavailable(f"adapter {name!r} cannot be had now, and is tried again in {retry_s} s: {why}")
        failed = f"adapter {name!r} failed when it was loaded, and is tried again in {retry_s} s: {why}"
        return AdapterUnavailable(self.status.reason or "engine", failed, retry_s)
