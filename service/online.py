"""How each version of an adapter does in use: its questions' outcomes and times, and callers' feedback on its answers.

Outcomes and times are those this process counted; feedback is read from the directory of kept questions (--capture).
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from service.adapters.residency import Residency
from service.capture import Capture, Feedback
from service.errors import NotKept
from service.metrics import VersionSeries
from service.outcomes import Outcomes, Tally, quantile


@dataclass(frozen=True)
class VersionUse:
    """One version's questions and feedback."""

    questions: Tally = field(default_factory=Tally)
    feedback: Feedback = field(default_factory=Feedback)


@dataclass(frozen=True)
class Comparison:
    """Every version's figures since `since`, when the adapter's aliases changed last; None: since this process started.

    `kept_in` is the id of the directory that feedback was read from: replicas that name the same one have the same
    feedback. None where none is kept.
    """

    since: datetime | None
    kept_in: str | None
    versions: Mapping[str, VersionUse]


@dataclass(frozen=True)
class Online:
    """The figures of one replica."""

    residency: Residency
    outcomes: Outcomes
    capture: Capture | None

    async def of(self, adapter: str) -> Comparison:
        """The figures of an adapter's versions; feedback is 0 while the directory of kept questions cannot be read."""
        since = self.residency.changed(adapter)
        kept_in, told = None, dict[str, Feedback]()
        if self.capture is not None:
            with suppress(NotKept):  # it was logged
                kept_in, told = await self.capture.feedback(adapter, since)
        return Comparison(since, kept_in, self._uses(adapter, since, told))

    def series(self) -> Sequence[VersionSeries]:
        """The figures of the versions that are loaded, for metrics, with feedback as of when it was last read."""
        found = list[VersionSeries]()
        names: dict[str, dict[str, VersionUse]] = {}
        for adapter, version in self.residency.loaded():
            if adapter not in names:
                since = self.residency.changed(adapter)
                told = self.capture.judged.of(adapter, since) if self.capture is not None else {}
                names[adapter] = self._uses(adapter, since, told)
            figures = names[adapter].get(version, VersionUse())
            questions, feedback = figures.questions, figures.feedback
            quantiles = {share: quantile(questions.seconds, share) for share in (0.5, 0.95)}
            found.append(
                VersionSeries(
                    adapter,
                    version,
                    {"ok": questions.answered, "failed": questions.failed},
                    {str(share): seconds for share, seconds in quantiles.items() if seconds is not None},
                    questions.total_s,
                    {"right": feedback.right, "wrong": feedback.wrong} if self.capture is not None else {},
                )
            )
        return found

    def _uses(self, adapter: str, since: datetime | None, told: Mapping[str, Feedback]) -> dict[str, VersionUse]:
        asked = self.outcomes.of(adapter, since)
        return {
            version: VersionUse(asked.get(version, Tally()), told.get(version, Feedback()))
            for version in sorted(asked.keys() | told.keys())
        }
