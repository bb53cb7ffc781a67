"""Answers against the right ones, over all rows and by category: counts for manifests, metrics with intervals."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from service.adapters.manifest import Score
from trainer.data.row import Row
from trainer.evaluation.intervals import Interval, intervals
from trainer.metrics import METRICS, normalised

ALL = "all"


@dataclass(frozen=True, slots=True)
class Measure:
    """One metric of base and adapter on one category's rows, and of adapter minus base, paired by row."""

    metric: str
    category: str
    rows: int
    images: int
    base: Interval
    adapter: Interval
    gain: Interval


def right(row: Row, answer: str) -> bool:
    """Whether `answer` is the row's, by normalised match."""
    return normalised(row.answer, answer) == 1


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
    both = [
        [metric(row.answer, answer) for metric in METRICS.values() for answer in pair]
        for row, *pair in zip(rows, base, adapter, strict=True)
    ]
    values = np.array(both, dtype=np.float64).reshape(len(rows), len(METRICS), 2)
    columns = np.concatenate([values, values[..., 1:] - values[..., :1]], axis=-1)
    found = []
    named = [(category, at) for category, at in _categories(rows) if category != ALL]
    for category, at in [*named, (ALL, list(range(len(rows))))]:
        groups = [rows[i].image or rows[i].id for i in at]
        ends = intervals(columns[at].reshape(len(at), 3 * len(METRICS)), groups, seed)
        found += [
            Measure(metric, category, len(at), len(set(groups)), *ends[3 * number : 3 * number + 3])
            for number, metric in enumerate(METRICS)
        ]
    return found


def _categories(rows: Sequence[Row]) -> Iterator[tuple[str, list[int]]]:
    for category in sorted({row.category for row in rows}):
        yield category, [index for index, row in enumerate(rows) if row.category == category]
