"""How sure a share is: Wilson's interval. Knows numbers only."""

from typing import NamedTuple

# The normal distribution's two-sided 95%.
Z = 1.959964


class Interval(NamedTuple):
    """The ends of an interval within 0 to 1."""

    low: float
    high: float


def wilson(right: int, of: int, z: float = Z) -> Interval | None:
    """The interval of a share of `right` among `of`, by default of 95%; None of nothing.

    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    if not of:
        return None
    share, square = right / of, z * z
    middle = (share + square / (2 * of)) / (1 + square / of)
    half = z / (1 + square / of) * (share * (1 - share) / of + square / (4 * of * of)) ** 0.5
    return Interval(max(0.0, middle - half), min(1.0, middle + half))
