"""A chart's numbers -> questions with true answers; every answer can be read off the picture alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from trainer.config.data import QuestionKind, Refer
from trainer.data.charts.chart import Chart

PARTS = {"pie": "slices", "funnel": "stages", "bar": "bars", "grouped": "bars", "line": "points", "scatter": "points"}
# Charts whose parts stand in a row, and how the parts are called then; as many as `parts` allows.
PLACED = {"bar": "bar", "line": "point"}
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its true answer and what kind of question it is."""

    kind: str
    text: str
    answer: str


def questions_of(
    chart: Chart, kinds: list[QuestionKind], count: int, rng: np.random.Generator, refer: Sequence[Refer] = ("name",)
) -> list[Question]:
    """At most `count` different questions, as many kinds as possible before a kind comes twice."""
    makers = {
        "value": _value, "compare": _compare, "sum": _sum, "extreme": _extreme, "trend": _trend, "count": _count,
    }  # fmt: skip
    # A question that comes out the same in two ways of referring is kept once.
    by_kind = [list(dict.fromkeys(each for way in refer for each in makers[kind](chart, way))) for kind in kinds]
    for questions in by_kind:
        rng.shuffle(questions)
    order = [by_kind[index] for index in rng.permutation(len(by_kind))]
    rounds = [questions[turn] for turn in range(count) for questions in order if turn < len(questions)]
    return rounds[:count]


def _cells(chart: Chart, way: Refer) -> list[tuple[str, int]]:
    """What can be referred to that way, and its value."""
    if way == "place":
        values = chart.values[0] if chart.kind in PLACED else ()
        return [
            (f"the {ordinal} {PLACED[chart.kind]}", value) for ordinal, value in zip(ORDINALS, values, strict=False)
        ]
    if not chart.names:
        return []
    many = len(chart.series) > 1
    return [
        (f"{name} in {series}" if many else name, value)
        for series, values in zip(chart.series, chart.values, strict=True)
        for name, value in zip(chart.names, values, strict=True)
    ]


def _value(chart: Chart, way: Refer) -> Iterator[Question]:
    what = "percentage" if chart.kind == "pie" else "value"
    for name, value in _cells(chart, way):
        yield Question("value", f"What is the {what} of {name}?", str(value))


def _compare(chart: Chart, way: Refer) -> Iterator[Question]:
    for first, one in _cells(chart, way):
        for second, other in _cells(chart, way):
            if one != other:
                yield Question("compare", f"Is {first} larger than {second}?", "yes" if one > other else "no")


def _sum(chart: Chart, way: Refer) -> Iterator[Question]:
    cells = _cells(chart, way)
    for index, (first, one) in enumerate(cells):
        for second, other in cells[index + 1 :]:
            yield Question("sum", f"What is the sum of {first} and {second}?", str(one + other))


def _extreme(chart: Chart, way: Refer) -> Iterator[Question]:
    """Of each series; where two are equal there is no true answer."""
    if not _cells(chart, way):
        return
    names, which, where = chart.names, "Which", ""
    if way == "place":
        names, which, where = ORDINALS, f"Which {PLACED[chart.kind]}", ", counted from the left"
    for series, values in zip(chart.series, chart.values, strict=True):
        among = f" in {series}" if len(chart.series) > 1 else where
        for word, value in (("largest", max(values)), ("smallest", min(values))):
            if values.count(value) == 1:
                yield Question("extreme", f"{which} is the {word}{among}?", names[values.index(value)])


def _trend(chart: Chart, _way: Refer) -> Iterator[Question]:
    values = chart.values[0]
    if chart.kind in ("line", "scatter") and values[0] != values[-1]:
        does, it, starts = (
            ("Does the line", "it", "starts") if chart.kind == "line" else ("Do the points", "they", "start")
        )
        answer = "higher" if values[-1] > values[0] else "lower"
        yield Question("trend", f"{does} end higher or lower than {it} {starts}?", answer)


def _count(chart: Chart, _way: Refer) -> Iterator[Question]:
    count = sum(map(len, chart.values))
    yield Question("count", f"How many {PARTS[chart.kind]} are there?", str(count))
