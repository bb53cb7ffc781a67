"""Settings compared by the answers of their adapters to the same rows: which is best, and which differences are real.

Chance in which rows were held out is shown by intervals of differences from the best, paired by row and drawn by image.
Since the best is chosen by the same rows, any two settings might have been the pair compared: of n settings each
interval is drawn at 1 - 5% / (n (n - 1) / 2), Bonferroni's bound, so that all hold together in 95% of sweeps. Chance in
a training is shown by seeds: a difference counts as real only where every seed of the one is above every seed of the
other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainer.data.row import Row
from trainer.evaluation.intervals import LEVEL, Interval, intervals
from trainer.evaluation.score import right


@dataclass(frozen=True, slots=True)
class Setting:
    """A combination of values, the answers of its trainings to the same rows by seed, and what they took.

    `seconds` is the mean of its trainings'; `losses` has each one's lowest held-out loss, where its log tells it.
    """

    values: dict[str, str]
    answers: tuple[tuple[str, ...], ...]
    seconds: float
    losses: tuple[float, ...] = ()

    def __str__(self) -> str:
        """For a table: "rank 16, learning-rate 1e-4"."""
        return ", ".join(f"{name} {value}" for name, value in self.values.items())


@dataclass(frozen=True, slots=True)
class Standing:
    """A setting's share of right answers, each seed's, and how far it is behind the best; `real`: surely worse."""

    setting: Setting
    right: Interval
    seeds: tuple[float, ...]
    behind: Interval | None
    real: bool

    @property
    def verdict(self) -> str:
        """The verdict on a setting in words: best, surely worse, or not told apart."""
        if self.behind is None:
            return "best here"
        return "worse" if self.real else "not told apart from the best"


def standings(settings: Sequence[Setting], rows: Sequence[Row], seed: int = 0) -> list[Standing]:
    """Every setting beside the best one, best first; `seed` is of the intervals.

    Raises:
        ValueError: no rows or no settings.
    """
    marks = [
        np.array([[right(row, said) for row, said in zip(rows, answers, strict=True)] for answers in each.answers])
        for each in settings
    ]
    means = np.stack([mark.mean(axis=0) for mark in marks], axis=1)  # (rows, settings)
    order = np.argsort(-means.mean(axis=0), kind="stable").tolist()
    groups, best = [row.image or row.id for row in rows], order[0]
    shares = intervals(means, groups, seed)
    level = 1 - (1 - LEVEL) / max(1, len(settings) * (len(settings) - 1) // 2)
    behind = intervals(means - means[:, [best]], groups, seed, level)
    seeds = [tuple(float(mark) for mark in each.mean(axis=1)) for each in marks]
    return [
        Standing(
            settings[at],
            shares[at],
            seeds[at],
            None if at == best else behind[at],
            at != best and behind[at].high < 0 and max(seeds[at]) < min(seeds[best]),
        )
        for at in order
    ]


def table(found: Sequence[Standing]) -> str:
    """The settings in lines, for a terminal."""
    wide = max(len(str(each.setting)) for each in found)
    lines = [f"{'setting':<{wide}} {'right, %':>20} {'behind, points':>22}  {'seconds':>7}"]
    for each in found:
        share, behind = _ends(each.right), "" if each.behind is None else _ends(each.behind)
        lines.append(f"{each.setting!s:<{wide}} {share:>20} {behind:>22} {each.setting.seconds:>8.0f}  {each.verdict}")
    return "\n".join(lines)


def _ends(found: Interval) -> str:
    return f"{100 * found.mean:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"
