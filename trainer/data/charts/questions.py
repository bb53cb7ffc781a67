"""A chart's numbers -> questions with true answers; every answer can be read off the picture alone."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from trainer.data.charts.chart import Chart
from trainer.data.config import Asked

PARTS = {"pie": "slices", "funnel": "stages", "bar": "bars", "grouped": "bars", "line": "points", "scatter": "points"}


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its true answer and what kind of question it is."""

    kind: str
    text: str
    answer: str


def ask(chart: Chart, kinds: list[Asked], count: int, rng: np.random.Generator) -> list[Question]:
    """At most `count` different questions, as many kinds as possible before a kind comes twice."""
    makers = {
        "value": _value, "compare": _compare, "sum": _sum, "extreme": _extreme, "trend": _trend, "count": _count,
    }  # fmt: skip
    by_kind = [list(makers[kind](chart)) for kind in kinds]
    for questions in by_kind:
        rng.shuffle(questions)
    order = [by_kind[index] for index in rng.permutation(len(by_kind))]
    rounds = [questions[turn] for turn in range(count) for questions in order if turn < len(questions)]
    return rounds[:count]


def _cells(chart: Chart) -> list[tuple[str, int]]:
    if not chart.names:
        return []
    many = len(chart.series) > 1
    return [
        (f"{name} in {series}" if many else name, value)
        for series, values in zip(chart.series, chart.values, strict=True)
        for name, value in zip(chart.names, values, strict=True)
    ]


def _value(chart: Chart) -> Iterator[Question]:
    what = "percentage" if chart.kind == "pie" else "value"
    for name, value in _cells(chart):
        yield Question("value", f"What is the {what} of {name}?", str(value))


def _compare(chart: Chart) -> Iterator[Question]:
    for first, one in _cells(chart):
        for second, other in _cells(chart):
            if one != other:
                yield Question("compare", f"Is {first} larger than {second}?", "yes" if one > other else "no")


def _sum(chart: Chart) -> Iterator[Question]:
    cells = _cells(chart)
    for index, (first, one) in enumerate(cells):
        for second, other in cells[index + 1 :]:
            yield Question("sum", f"What is the sum of {first} and {second}?", str(one + other))


def _extreme(chart: Chart) -> Iterator[Question]:
    """Of each series; where two are equal there is no true answer."""
    if not chart.names:
        return
    for series, values in zip(chart.series, chart.values, strict=True):
        where = f" in {series}" if len(chart.series) > 1 else ""
        for word, value in (("largest", max(values)), ("smallest", min(values))):
            if values.count(value) == 1:
                yield Question("extreme", f"Which is the {word}{where}?", chart.names[values.index(value)])


def _trend(chart: Chart) -> Iterator[Question]:
    if chart.kind not in ("line", "scatter"):
        return
    values = chart.values[0]
    if values[0] != values[-1]:
        answer = "rise" if values[-1] > values[0] else "fall"
        what = "the line rise or fall from start to end" if chart.kind == "line" else "the points rise or fall"
        yield Question("trend", f"Do{'es' if chart.kind == 'line' else ''} {what}?", answer)


def _count(chart: Chart) -> Iterator[Question]:
    count = sum(map(len, chart.values))
    yield Question("count", f"How many {PARTS[chart.kind]} are there?", str(count))
