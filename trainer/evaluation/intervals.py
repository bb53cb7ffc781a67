"""How sure a mean is: seeded bootstrap intervals over groups of rows; knows numbers only.

Rows about one image are right or wrong together, so images are drawn, not rows (the cluster bootstrap of Davison and
Hinkley, "Bootstrap Methods and their Application", 1997). Every column is drawn alike, which makes the interval of a
difference of two columns a paired one. The ends are percentiles of the means drawn.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

DRAWS, LEVEL = 1000, 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the ends of its interval, by default of 95%; all three are the same where every group agrees."""

    mean: float
    low: float
    high: float


def intervals(
    columns: npt.NDArray[np.float64], groups: Sequence[Hashable], seed: int, level: float = LEVEL
) -> list[Interval]:
    """The mean of each column of shape (rows, columns) with its interval; `groups` says which rows belong together.

    Raises:
        ValueError: no rows, or another number of groups than of rows.
    """
    if not len(columns) or len(columns) != len(groups):
        raise ValueError(f"{len(columns)} rows and {len(groups)} groups: one group for each row is needed")
    numbers: dict[Hashable, int] = {}
    group = np.array([numbers.setdefault(name, len(numbers)) for name in groups])
    sums = np.zeros((len(numbers), columns.shape[1]))
    np.add.at(sums, group, columns)
    sizes = np.bincount(group)
    generator = np.random.default_rng(seed)
    draws = round(DRAWS * (1 - LEVEL) / (1 - level))  # so that as many lie beyond the ends
    means = np.empty((draws, columns.shape[1]))
    for draw in range(draws):
        times = np.bincount(generator.integers(len(numbers), size=len(numbers)), minlength=len(numbers))
        means[draw] = (times @ sums) / (times @ sizes)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return [Interval(*map(float, ends)) for ends in zip(columns.mean(axis=0), low, high, strict=True)]
