"""The record of one version: its state, why, when to try again, who uses it, where it lies. Data; nothing moves here.

`__init__.py` draws the machine, `reconciler.py` alone moves a record through it.
"""

import asyncio
from dataclasses import dataclass, field
from enum import StrEnum

from service.adapters.verdicts import Verdict
from service.calibration import Calibration
from service.errors import AdapterNotFound, AdapterUnavailable, ServiceError, StoreUnavailable
from service.types import Adapter


class State(StrEnum):
    """Where a version stands in this replica."""

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


# Where each state may lead; anything else is a fault of ours.
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
    """What is said of a version: for a condition `retry_at` is when it is tried again, on the event loop's clock."""

    state: State = State.STORED
    reason: str | None = None
    message: str | None = None
    retry_at: float | None = None


@dataclass(eq=False, slots=True)
class Version:
    """One version in this replica; only the reconciler changes it.

    `holders` requests need its files, `users` of them have it in the engine, `waiting` ones will. `sought`: the
    service itself wants it in the engine, for a pin or for an alias that waits to move to it. `stamp` is that of the
    files when they were last read, `whole` that with which they were what was published; `verdict` is None until its
    probes were answered, now or before the last start; `places` are those it takes in the engine, of a mixture two, and
    `calibration` what it says of its confidences, both known once its files were on this machine, as `whole` tells;
    `engine` counts the engine lost last before they were.
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
        """Where it stands."""
        return self.status.state

    @property
    def calibrated(self) -> bool | None:
        """Whether it has a calibration; None before its files were on this machine."""
        return None if self.whole is None else self.calibration is not None

    @property
    def proven(self) -> bool:
        """Whether it may serve: its content was judged, and its probes were answered as recorded."""
        return self.verdict is not None and self.verdict.reason is None

    @property
    def wanted(self) -> bool:
        """Whether a request waits for it to be loaded, or the service itself wants it loaded."""
        return bool(self.waiting) or self.sought

    def error(self, now: float) -> ServiceError:
        """The error of a request for a version that failed or was refused; `now` is on the event loop's clock."""
        name, why = self.adapter.name, self.status.message or ""
        retry_s = max(1, round((self.status.retry_at or now) - now))
        if self.state is State.REFUSED:
            return AdapterNotFound(f"adapter {name!r} was refused when it was loaded: {why}")
        if self.state is State.UNREACHABLE:
            return StoreUnavailable(f"adapter {name!r} cannot be had now, and is tried again in {retry_s} s: {why}")
        failed = f"adapter {name!r} failed when it was loaded, and is tried again in {retry_s} s: {why}"
        return AdapterUnavailable(self.status.reason or "engine", failed, retry_s)
