"""The answers of a base and one adapter to the same held-out rows, their measures, and tables of these."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from service.adapters.manifest import Score
from trainer.data.row import Row
from trainer.evaluation.blind import Blind, NotAsked
from trainer.evaluation.confidence import RISKS, Sureness, sureness
from trainer.evaluation.intervals import Interval
from trainer.evaluation.kinds import Detected, Polar, kind_of, polar, unanswerable
from trainer.evaluation.score import ALL, Measure, measure, measure_groups, right, score

MAIN_METRIC = "normalised"


@dataclass(frozen=True, slots=True)
class Source:
    """Where answers came from: a service's URL or a checkpoint's directory, and the base that answered there."""

    place: str
    base_id: str
    precision: str


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """A model's answer and its confidence, the probability of the whole answer; None where it is not known.

    `calibrated` is that confidence by the calibration of the adapter's version; None where it has none.
    """

    text: str
    confidence: float | None = None
    calibrated: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """Answers of base and adapter in the order of `rows`.

    `seen` are the rows' images that the adapter was trained on, `run` the directory of its training run, where known;
    `seed` is of the intervals, `beams` of the search for each answer. The confidences are as many as rows, or none; one
    may be None. `calibrated` are the adapter's by its version's calibration. `blind` is the control
    without images, or why it was not made; None where no adapter is compared. `seconds` is how long the adapter took
    for all rows, where that was timed.
    """

    source: Source
    adapter: str
    rows: tuple[Row, ...]
    base: tuple[str, ...]
    answers: tuple[str, ...]
    seen: tuple[str, ...] = ()
    run: Path | None = None
    seed: int = 0
    beams: int = 1
    base_confidences: tuple[float | None, ...] = ()
    confidences: tuple[float | None, ...] = ()
    calibrated: tuple[float | None, ...] = ()
    blind: Blind | NotAsked | None = None
    seconds: float | None = None

    @property
    def name(self) -> str:
        """The adapter's, and with how many beams it was asked where these are several."""
        return self.adapter if self.beams == 1 else f"{self.adapter}, {self.beams} beams"

    @classmethod
    def of(
        cls,
        source: Source,
        adapter: str,
        rows: Sequence[Row],
        base: Sequence[ModelAnswer],
        said: Sequence[ModelAnswer],
        seen: tuple[str, ...] = (),
        run: Path | None = None,
        seed: int = 0,
        beams: int = 1,
        seconds: float | None = None,
    ) -> "Evaluation":
        """The evaluation of a base's answers (`base`) and an adapter's (`said`) to the same `rows`, in their order."""
        texts = tuple(each.text for each in base), tuple(each.text for each in said)
        sure = tuple(each.confidence for each in base), tuple(each.confidence for each in said)
        calibrated = tuple(each.calibrated for each in said)
        return cls(source, adapter, tuple(rows), *texts, seen, run, seed, beams, *sure, calibrated, seconds=seconds)

    @cached_property
    def measures(self) -> tuple[Measure, ...]:
        """Every metric by category, those over all rows last."""
        return tuple(measure(self.rows, self.base, self.answers, self.seed))

    @cached_property
    def groups(self) -> tuple[Measure, ...]:
        """The main metric by the groups that rows are counted in, that over all rows last; empty where there are none.

        Of ScienceQA's rows they are the columns of LaVIN's table.
        """
        return tuple(measure_groups(self.rows, self.base, self.answers, MAIN_METRIC, self.seed))

    @cached_property
    def kinds(self) -> tuple[Measure, ...]:
        """Every metric by kind of question, see kinds.py, those over all rows last."""
        rows = [replace(row, category=kind_of(row)) for row in self.rows]
        return tuple(measure(rows, self.base, self.answers, self.seed))

    @cached_property
    def polar(self) -> dict[str, Polar | None]:
        """The figures of yes-no questions of "adapter" and "base"; None where no row is such a question."""
        return {who: polar(self.rows, said) for who, said in self._by_who.items()}

    @cached_property
    def unanswerable(self) -> dict[str, Detected | None]:
        """How well "adapter" and "base" find unanswerable questions; None where no row is one."""
        return {who: unanswerable(self.rows, said) for who, said in self._by_who.items()}

    @cached_property
    def sureness(self) -> dict[str, Sureness | None]:
        """The measures of confidences; None where these are not known.

        "adapter" and "base" are as the model gives them, "calibrated" the adapter's by its version's calibration.
        """
        return {
            "adapter": self._sureness(self.answers, self.confidences),
            "calibrated": self._sureness(self.answers, self.calibrated),
            "base": self._sureness(self.base, self.base_confidences),
        }

    @property
    def _by_who(self) -> dict[str, tuple[str, ...]]:
        return {"adapter": self.answers, "base": self.base}

    def _sureness(self, answers: Sequence[str], confidences: Sequence[float | None]) -> Sureness | None:
        known = [
            (sure, right(row, said))
            for row, said, sure in zip(self.rows, answers, confidences, strict=False)
            if sure is not None
        ]
        return sureness([sure for sure, _ in known], [hit for _, hit in known]) if known else None

    @property
    def total(self) -> Score:
        """Right answers in all, by normalised match."""
        return score(self.rows, self.base, self.answers)

    def summary(self) -> dict[str, object]:
        """One line for programs: counts, and each metric over all rows as [mean, low, high]."""
        source = self.source
        facts: dict[str, object] = {
            "source": source.place,
            "base": source.base_id,
            "precision": source.precision,
            "adapter": self.adapter,
        }
        facts |= {"beams": self.beams} if self.beams > 1 else {}
        facts |= {"seconds": round(self.seconds, 2)} if self.seconds is not None else {}
        counts = {"rows": self.total.rows, "base_right": self.total.base, "adapter_right": self.total.adapter}
        metrics = {
            found.metric: {name: _ends(getattr(found, name)) for name in ("base", "adapter", "gain")}
            for found in self.measures
            if found.category == ALL
        }
        groups = {
            found.category: {"rows": found.rows, "base": _ends(found.base), "adapter": _ends(found.adapter)}
            for found in self.groups
        }
        told: dict[str, object] = {"groups": groups} if groups else {}
        if sure := {who: _told(found) for who, found in self.sureness.items() if found is not None}:
            told["confidence"] = sure
        if self.blind:
            told["blind"] = _control(self.blind)
        return {**facts, **counts, "images_seen_in_training": len(self.seen), "metrics": metrics, **told}


def table(evaluations: Sequence[Evaluation]) -> str:
    """The main metric side by side in percent, a line for each source, adapter and category.

    Behind the line of all rows stands how many seconds the adapter took for them, where that was timed.
    """
    wide = max(12, *(len(each.name) for each in evaluations))
    head = f"{'base model':<20} {'precision':<9} {'adapter':<{wide}} {'rows':<12} {'count':>6}"
    lines = [f"{head} {'base %':>20} {'adapter %':>20} {'gain, points':>20} {'seconds':>8}"]
    for each in evaluations:
        for found in each.measures:
            if found.metric == MAIN_METRIC:
                ends = (f"{percent(end):>20}" for end in (found.base, found.adapter, found.gain))
                facts = f"{each.source.base_id:<20} {each.source.precision:<9} {each.name:<{wide}} {found.category:<12}"
                took = [f"{each.seconds:>8.1f}"] if found.category == ALL and each.seconds is not None else []
                lines.append(" ".join([f"{facts} {found.rows:>6}", *ends, *took]))
    return "\n".join(lines)


def group_table(evaluations: Sequence[Evaluation]) -> str:
    """The main metric in percent with a column for each group, as LaVIN's table is; "" where rows are in no group."""
    columns = [found.category for found in evaluations[0].groups]
    if not columns:
        return ""
    lines = [" ".join([f"{'':<26}", *(f"{'Avg' if name == ALL else name:>6}" for name in columns)])]
    named = [("rows", [f"{found.rows:>6}" for found in evaluations[0].groups])]
    for each in evaluations:
        named += [
            (f"{who} {of}", [f"{100 * getattr(found, who).mean:>6.1f}" for found in each.groups])
            for who, of in (("base", each.source.base_id), ("adapter", each.name))
        ]
    return "\n".join([*lines, *(" ".join([f"{name:<26.26}", *cells]) for name, cells in named)])


def percent(found: Interval) -> str:
    """A share in percent with its interval: "53.0 [49.6, 56.5]"."""
    return f"{100 * found.mean:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def _told(found: Sureness) -> dict[str, object]:
    at = {
        f"{risk:.0%}": point and {"coverage": round(point.coverage, 4), "threshold": round(point.threshold, 6)}
        for risk, point in ((risk, found.at[risk]) for risk in RISKS)
    }
    figures = {name: round(getattr(found, name), 4) for name in ("ece", "brier", "aurc")}
    return {"rows": found.count, **figures, "coverage_at_risk": at}


def _control(found: Blind | NotAsked) -> dict[str, object]:
    if isinstance(found, NotAsked):
        return {"not_asked": found.why}
    ends = {"with_image": found.shown, "without": found.hidden, "difference": found.gain}
    counts: dict[str, object] = {"rows": found.rows, "images": found.images, "categories": found.categories}
    return counts | {name: _ends(end) for name, end in ends.items()} | {"looks": found.looks}


def _ends(found: Interval) -> list[float]:
    return [round(end, 4) for end in (found.mean, found.low, found.high)]
