"""Answers against the right ones: normalised exact match, over all rows and by category."""

import re
from collections.abc import Sequence

from service.adapters.manifest import Score
from trainer.data.rows import Row


def normalise(text: str) -> str:
    """Lower case, inner space collapsed, surrounding space and punctuation gone."""
    return re.sub(r"\s+", " ", text.lower()).strip(" .,;:!?\"'")


def right(row: Row, answer: str) -> bool:
    """Whether `answer` is the row's, by normalised match."""
    return normalise(answer) == normalise(row.answer)


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
    found = {}
    for category in sorted({row.category for row in rows}):
        at = [index for index, row in enumerate(rows) if row.category == category]
        found[category] = score([rows[i] for i in at], [base[i] for i in at], [adapter[i] for i in at])
    return found
