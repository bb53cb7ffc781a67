"""Figures of both versions -> what to do about a canary. Pure: no HTTP, no clock."""

from dataclasses import dataclass, field
from typing import Literal

from service.canary.evidence import Share, evidence
from service.canary.options import Options
from service.intervals import wilson
from service.outcomes import quantile

Action = Literal["promote", "roll back", "finish", "wait"]
# Ways for a canary to be worse, each tested at a third of the level: so all together roll back a canary that is no
# worse with a chance of at most the level (Bonferroni).
_WAYS = 3


@dataclass
class VersionCounts:
    """One version's counts over all replicas; `seconds` has answers by the upper end of their time's bucket, in s."""

    right: int = 0
    wrong: int = 0
    answered: int = 0
    failed: int = 0
    seconds: dict[float, int] = field(default_factory=dict)

    @property
    def judged(self) -> int:
        """Answers that callers judged."""
        return self.right + self.wrong

    def told(self) -> dict[str, object]:
        """Its fields in a line of the log."""
        interval = wilson(self.right, self.judged)
        return {
            "right": self.right,
            "wrong": self.wrong,
            "agreement": round(self.right / self.judged, 4) if self.judged else None,
            "interval": [round(end, 4) for end in interval] if interval else None,
            "answered": self.answered,
            "failed": self.failed,
            "p95_s": quantile(self.seconds, 0.95),
        }


@dataclass(frozen=True)
class Seen:
    """A canary as all replicas show it: figures of both versions, and for how many hours they were counted.

    `hours` is None where it is not known since when.
    """

    canary: VersionCounts
    stable: VersionCounts
    hours: float | None
    same: bool  # stable leads to the canary's version already
    away: str | None  # why not every replica's figures are in it


@dataclass(frozen=True)
class Decision:
    """What to do, why in a sentence, and the evidence for each rule (1 is none, `needed` is enough)."""

    action: Action
    reason: str
    evidence: dict[str, float] = field(default_factory=dict)


def decide(seen: Seen, options: Options) -> Decision:
    """Decide by the rules. While a replica is away nothing is promoted, but the others' figures may roll back."""
    canary, stable = seen.canary, seen.stable
    if seen.same:
        return Decision("finish", "stable leads to the canary's version already: its share goes to stable")
    enough, strict = 1 / options.level, _WAYS / options.level
    found = _evidence(canary, stable, options.slower)
    told = {name: round(value, 3) for name, value in found.items()} | {"needed": enough, "needed_worse": strict}
    judged = min(canary.judged, stable.judged) >= options.least
    asked = min(canary.answered + canary.failed, stable.answered + stable.failed) >= options.least

    def decision(action: Action, reason: str) -> Decision:
        return Decision(action, reason, told)

    if judged and found["worse"] >= strict:
        return decision("roll back", f"it is right less often: {_shares(canary, stable)}")
    if asked and found["fails"] >= strict:
        return decision("roll back", f"it fails more often: {canary.failed} against {stable.failed} failures")
    if _slower(canary, stable, options) and found["slower"] >= strict:
        return decision("roll back", f"its p95 is over {options.slower:g} times stable's")
    if seen.hours is not None and seen.hours > options.longest_h:
        return decision("roll back", f"it was not shown to be better within {options.longest_h:g} hours")
    if seen.away is not None:
        return decision("wait", seen.away)
    if not judged:
        few = f"{canary.judged} of its answers and {stable.judged} of stable's are judged"
        return decision("wait", f"{few}: {options.least} of each are needed")
    if found["better"] >= enough:
        return decision("promote", f"it is right more often: {_shares(canary, stable)}")
    return decision("wait", f"no evidence of a difference yet: {_shares(canary, stable)}")


def _slower(canary: VersionCounts, stable: VersionCounts, options: Options) -> bool:
    """Whether the canary's p95 is over the limit, once enough answers of both are timed."""
    if min(canary.answered, stable.answered) < options.least_timed:
        return False
    return (quantile(canary.seconds, 0.95) or 0.0) > _limit(stable, options.slower)


def _limit(stable: VersionCounts, slower: float) -> float:
    """The seconds above which an answer counts as slow: `slower` times stable's p95, or 0 where it has no answers."""
    return slower * (quantile(stable.seconds, 0.95) or 0.0)


def _evidence(canary: VersionCounts, stable: VersionCounts, slower: float) -> dict[str, float]:
    right = Share(canary.right, canary.judged), Share(stable.right, stable.judged)
    fails = tuple(Share(each.failed, each.answered + each.failed) for each in (canary, stable))
    limit = _limit(stable, slower)
    slow = tuple(
        Share(sum(count for upper, count in each.seconds.items() if upper > limit), each.answered)
        for each in (canary, stable)
    )
    return {
        "better": evidence(*right),
        "worse": evidence(right[1], right[0]),
        "fails": evidence(*fails),
        "slower": evidence(*slow),
    }


def _shares(canary: VersionCounts, stable: VersionCounts) -> str:
    return f"{canary.right} of {canary.judged} against {stable.right} of {stable.judged} of stable"
