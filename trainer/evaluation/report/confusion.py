"""How often which answer was given where another was right: the most common right answers by what was answered."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from trainer.metrics import normalise

EXPECTED, OTHERS = 10, 4


@dataclass(frozen=True, slots=True)
class Cell:
    """How often one answer was said where another was expected: a count, and its share of those expected."""

    count: int
    share: float
    right: bool


@dataclass(frozen=True, slots=True)
class Confusion:
    """`lines` has the cells of each of `expected`, one for each of `said`; the last of `said` is all other answers."""

    expected: tuple[str, ...]
    said: tuple[str, ...]
    lines: tuple[tuple[Cell, ...], ...]


def confusion(expected: Sequence[str], answers: Sequence[str]) -> Confusion | None:
    """Count normalised answers; None where no expected answer comes up twice, as with free text."""
    pairs = [(normalise(right), normalise(said)) for right, said in zip(expected, answers, strict=True)]
    asked = Counter(right for right, _ in pairs)
    rows = [right for right, count in asked.most_common(EXPECTED) if count > 1]
    if not rows:
        return None
    instead = Counter(said for right, said in pairs if right in rows and said not in rows)
    columns = [*rows, *(said for said, _ in instead.most_common(OTHERS))]
    counts = Counter((right, said if said in columns else None) for right, said in pairs)
    lines = tuple(
        tuple(Cell(counts[right, said], counts[right, said] / asked[right], right == said) for said in (*columns, None))
        for right in rows
    )
    return Confusion(tuple(rows), (*columns, "other"), lines)
