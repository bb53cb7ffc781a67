"""What came of the questions to each version of an adapter in this process: answered or failed, and in what time.

Counted from when an alias of the adapter was last moved or given another share, so that the versions of one adapter
are compared over the same time. Held in memory: a restart begins at 0. Knows neither HTTP nor the store.
"""

import math
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from service.errors import (
    AdapterUnavailable,
    DeadlineExceeded,
    EngineUnavailable,
    ServiceError,
    StoreUnavailable,
)

# Outcomes that may be a version's fault; a caller's mistakes and refusals by a service that is full are not counted.
FAILED = frozenset(
    kind.code for kind in (ServiceError, DeadlineExceeded, EngineUnavailable, AdapterUnavailable, StoreUnavailable)
)
ANSWERED = "ok"
# Adapters that are counted at once; the one asked longest ago is forgotten for a new one.
ADAPTERS = 1024
# Times are counted in buckets from 1 ms to 1,000 s, twenty for each factor of ten. A quantile is the upper end of its
# bucket, so at most 10^(1/20) - 1 = 12.2% too large; times outside are counted in the first or last bucket.
_BUCKETS = 20
_SHORTEST, _LONGEST = -3 * _BUCKETS, 3 * _BUCKETS  # 1 ms and 1,000 s


@dataclass
class Tally:
    """One version's questions: how many were answered and how many failed, and how long the answers took.

    `seconds` has the number of answers by the upper end, in seconds, of the bucket that their time is in.
    """

    answered: int = 0
    failed: int = 0
    total_s: float = 0.0
    seconds: Counter[float] = field(default_factory=Counter)


class Outcomes:
    """A Tally for each version of the adapters that were asked last."""

    def __init__(self, most: int = ADAPTERS) -> None:
        self._most = most
        self._of: OrderedDict[str, tuple[datetime | None, dict[str, Tally]]] = OrderedDict()

    def record(self, adapter: str, version: str, outcome: str, seconds: float, since: datetime | None) -> None:
        """Count one question's outcome and its time in seconds, if the outcome is ANSWERED or one of FAILED.

        `since` is when the adapter's aliases changed last: where it is another than before, counting starts at 0.
        """
        if outcome != ANSWERED and outcome not in FAILED:
            return
        began, tallies = self._of.get(adapter, (since, {}))
        if began != since:
            tallies = {}
        tally = tallies.setdefault(version, Tally())
        if outcome == ANSWERED:
            tally.answered += 1
            tally.total_s += seconds
            tally.seconds[_bucket(seconds)] += 1
        else:
            tally.failed += 1
        self._of[adapter] = since, tallies
        self._of.move_to_end(adapter)
        if len(self._of) > self._most:
            self._of.popitem(last=False)

    def of(self, adapter: str, since: datetime | None) -> Mapping[str, Tally]:
        """An adapter's tallies by version; empty where what was counted is not of the time since `since`."""
        began, tallies = self._of.get(adapter, (since, {}))
        return tallies if began == since else {}


def quantile(seconds: Mapping[float, int], share: float) -> float | None:
    """The seconds that a `share` (0 to 1) of the answers took at most; None where there are no answers.

    `seconds` has the answers by the upper end of their bucket, as a Tally has them.
    """
    left = share * sum(seconds.values())
    for upper, count in sorted(seconds.items()):
        left -= count
        if left <= 0:
            return upper
    return None


def _bucket(seconds: float) -> float:
    """The upper end of the bucket of a time, in seconds."""
    number = math.ceil(round(_BUCKETS * math.log10(max(seconds, 1e-9)), 9))
    return float(f"{10 ** (min(max(number, _SHORTEST), _LONGEST) / _BUCKETS):.4g}")
