"""Answers against the right ones, over all rows and by category: counts for manifests, metrics with intervals.

A row may have several right answers: ten people's votes, or other ways to say the same. The metric `vqa` is
`trainer.metrics.vqa_accuracy` over them, `normalised` is 1 where `right` says so, any other is the highest value over
them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from service.adapters.manifest import Score
from trainer.data.forms.scienceqa import GROUPS
from trainer.data.row import Row
from trainer.evaluation.intervals import Interval, intervals
from trainer.metrics import METRICS, best, normalised, vqa_accuracy

ALL = "all"
# The graded accuracy of rows with several right answers; of one right answer it is the normalised match.
VQA = "vqa"
# From this VQA accuracy on an answer counts as right: of ten people two gave it.
_RIGHT = 0.5


@dataclass(frozen=True, slots=True)
class Measure:
    """One metric of base and adapter on the rows of a category or group, and of adapter minus base, paired by row."""

    metric: str
    category: str
    rows: int
    images: int
    base: Interval
    adapter: Interval
    gain: Interval


def right(row: Row, answer: str) -> bool:
    """Whether `answer` matches the row's answer after normalisation, or has a VQA accuracy of 0.5 by all its answers.

    Of ten people's answers two have to be the same; of fewer than ten one.
    """
    if normalised(row.answer, answer) == 1:
        return True
    return bool(row.answers) and vqa_accuracy(row.answers, answer) >= _RIGHT


def mark(metric: str, row: Row, answer: str) -> float:
    """The value of `answer` to `row` by a metric of `METRICS` or by `VQA`, from 0 to 1."""
    if metric == VQA:
        return vqa_accuracy(row.answers or (row.answer,), answer)
    if metric == "normalised":
        return float(right(row, answer))
    return best(METRICS[metric], (row.answer, *row.answers), answer)


def metrics_for(rows: Sequence[Row]) -> list[str]:
    """The metrics to report of these rows: `VQA` is among them where a row has several right answers."""
    return [*METRICS, *([VQA] if any(row.answers for row in rows) else [])]


def score(rows: Sequence[Row], base: Sequence[str], adapter: Sequence[str]) -> Score:
    """Right answers of base and adapter on the same rows."""
    count_base = sum(right(row, answer) for row, answer in zip(rows, base, strict=True))
    return Score(
        rows=len(rows),
        base=count_base,
        adapter=sum(right(row, answer) for row, answer in zip(rows, adapter, strict=True)),
    )


def by_category(rows: Sequence[Row], base: Sequence[str], adapter: Sequence[str]) -> dict[str, Score]:
    """`score` for each category of the rows, sorted by name."""
    return {
        category: score([rows[i] for i in at], [base[i] for i in at], [adapter[i] for i in at])
        for category, at in _categories(rows)
    }


def measure(rows: Sequence[Row], base: Sequence[str], adapter: Sequence[str], seed: int = 0) -> list[Measure]:
    """Every metric for each category, sorted by name, and behind them for all rows.

    Raises:
        ValueError: no rows, or another number of answers.
    """
    named = [(category, at) for category, at in _categories(rows) if category != ALL]
    return _measured(metrics_for(rows), rows, base, adapter, named, seed)


def measure_groups(
    rows: Sequence[Row], base: Sequence[str], adapter: Sequence[str], metric: str, seed: int = 0
) -> list[Measure]:
    """One metric for each group that rows are counted in, ScienceQA's first and in LaVIN's order, then for all rows.

    Nothing where no row is in a group. A row may be in several.

    Raises:
        ValueError: no rows, or another number of answers.
    """
    names = {group for row in rows for group in row.groups}
    ordered = [*(name for name in GROUPS if name in names), *sorted(names.difference(GROUPS))]
    named = [(name, [at for at, row in enumerate(rows) if name in row.groups]) for name in ordered]
    return _measured([metric], rows, base, adapter, named, seed) if named else []


def _measured(
    metrics: Sequence[str],
    rows: Sequence[Row],
    base: Sequence[str],
    adapter: Sequence[str],
    named: Sequence[tuple[str, list[int]]],
    seed: int,
) -> list[Measure]:
    """Each metric on each named part of the rows, which are given by their places, and behind them on all."""
    both = [
        [mark(metric, row, answer) for metric in metrics for answer in pair]
        for row, *pair in zip(rows, base, adapter, strict=True)
    ]
    values = np.array(both, dtype=np.float64).reshape(len(rows), len(metrics), 2)
    columns = np.concatenate([values, values[..., 1:] - values[..., :1]], axis=-1)
    found = []
    for name, at in [*named, (ALL, list(range(len(rows))))]:
        images = [rows[i].image or rows[i].id for i in at]
        ends = intervals(columns[at].reshape(len(at), 3 * len(metrics)), images, seed)
        found += [
            Measure(metric, name, len(at), len(set(images)), *ends[3 * number : 3 * number + 3])
            for number, metric in enumerate(metrics)
        ]
    return found


def _categories(rows: Sequence[Row]) -> Iterator[tuple[str, list[int]]]:
    for category in sorted({row.category for row in rows}):
        yield category, [index for index, row in enumerate(rows) if row.category == category]
