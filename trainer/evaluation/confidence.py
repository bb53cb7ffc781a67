"""Measures of confidences: calibration errors, and the share of wrong answers above a threshold.

Every function takes two arrays in the same order: confidences from 0 to 1, and whether each answer is right.

    ECE       the mean distance, over bins of confidence, between how sure and how often right (Naeini et al., AAAI
              2015). Bins have equally many answers (Nguyen and O'Connor, EMNLP 2015): most confidences of short answers
              lie near 1, and bins of equal width would mostly be empty.
    Brier     the mean squared distance of confidence from 1 where right and 0 where wrong (Brier, 1950).
    risk      the share of wrong answers among those whose confidence reaches a threshold; coverage is how many of all
              these are. AURC is the mean risk over all coverages (Geifman and El-Yaniv, NeurIPS 2017). Answers of one
              confidence are taken together, since no threshold parts them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.calibration import Covered

BINS = 15
# The shares of wrong answers for which reports tell how many questions can be answered.
RISKS = (0.01, 0.05, 0.1)

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers of about the same confidence: its mean, the share that is right, and how many they are."""

    confidence: float
    right: float
    count: int


@dataclass(frozen=True, slots=True)
class Sureness:
    """The measures of a model's confidences on `count` rows.

    `curve` has every threshold there is, from the highest down; `at` for each of `RISKS` the largest coverage whose
    risk is no higher, None where even the surest answers are wrong more often.
    """

    count: int
    ece: float
    brier: float
    aurc: float
    bins: tuple[Bin, ...]
    curve: tuple[Covered, ...]
    at: dict[float, Covered | None]


def sureness(confidences: Sequence[float], right: Sequence[bool]) -> Sureness:
    """All figures of confidences and whether their answers are right.

    Raises:
        ValueError: there are none, another number of each, or one that is no probability.
    """
    sure, hits = _arrays(confidences, right)
    curve = risk_coverage(sure, hits)
    return Sureness(
        len(sure),
        ece(sure, hits),
        brier(sure, hits),
        aurc(sure, hits),
        bins(sure, hits),
        curve,
        {risk: covered_at(curve, risk) for risk in RISKS},
    )


def bins(confidences: Sequence[float] | Floats, right: Sequence[bool] | Floats, most: int = BINS) -> tuple[Bin, ...]:
    """Up to `most` bins of equally many answers, least sure first; answers of one confidence are never parted."""
    sure, hits = _arrays(confidences, right)
    order = np.argsort(sure, kind="stable")
    sure, hits = sure[order], hits[order]
    ends = [round(len(sure) * number / most) for number in range(1, most + 1)]
    # An end within a run of equal confidences moves behind the run.
    moved = sorted({int(np.searchsorted(sure, sure[end - 1], side="right")) for end in ends if end})
    starts = [0, *moved[:-1]]
    return tuple(
        Bin(float(sure[start:end].mean()), float(hits[start:end].mean()), end - start)
        for start, end in zip(starts, moved, strict=True)
    )


def ece(confidences: Sequence[float] | Floats, right: Sequence[bool] | Floats, most: int = BINS) -> float:
    """The expected calibration error over bins of equally many answers, from 0 to 1."""
    found = bins(confidences, right, most)
    total = sum(each.count for each in found)
    return sum(each.count * abs(each.confidence - each.right) for each in found) / total


def brier(confidences: Sequence[float] | Floats, right: Sequence[bool] | Floats) -> float:
    """The Brier score: the mean squared distance of confidence from 1 where right and 0 where wrong, from 0 to 1."""
    sure, hits = _arrays(confidences, right)
    return float(np.mean((sure - hits) ** 2))


def risk_coverage(confidences: Sequence[float] | Floats, right: Sequence[bool] | Floats) -> tuple[Covered, ...]:
    """Coverage and risk at every confidence there is, the highest first."""
    sure, hits = _arrays(confidences, right)
    values, counts, wrong = _steps(sure, hits)
    answered = np.cumsum(counts)
    risks = np.cumsum(wrong) / answered
    return tuple(
        Covered(threshold=float(value), coverage=float(covered), risk=float(risk))
        for value, covered, risk in zip(values, answered / len(sure), risks, strict=True)
    )


def aurc(confidences: Sequence[float] | Floats, right: Sequence[bool] | Floats) -> float:
    """The mean risk over the coverages 1/n to n/n; within one confidence the errors are spread evenly."""
    sure, hits = _arrays(confidences, right)
    _, counts, wrong = _steps(sure, hits)
    each = np.cumsum(np.repeat(wrong / counts, counts))
    return float(np.mean(each / np.arange(1, len(sure) + 1)))


def covered_at(curve: Sequence[Covered], risk: float) -> Covered | None:
    """The point of the largest coverage whose risk is at most `risk`; None: there is none."""
    fitting = [point for point in curve if point.risk <= risk + 1e-12]
    return max(fitting, key=lambda point: point.coverage, default=None)


def _steps(sure: Floats, hits: Floats) -> tuple[Floats, NDArray[np.intp], Floats]:
    """Every confidence there is, the highest first, with its number of answers and how many are wrong."""
    values, place, counts = np.unique(-sure, return_inverse=True, return_counts=True)
    wrong = np.bincount(place, weights=1 - hits)
    return -values, counts, wrong.astype(np.float64)


def _arrays(confidences: Sequence[float] | Floats, right: Sequence[bool] | Floats) -> tuple[Floats, Floats]:
    sure, hits = np.asarray(confidences, np.float64), np.asarray(right, np.float64)
    if not len(sure) or sure.shape != hits.shape:
        raise ValueError(f"{len(sure)} confidences and {len(hits)} answers: one of each is needed")
    if not ((sure >= 0) & (sure <= 1)).all():
        raise ValueError("a confidence is no probability from 0 to 1")
    return sure, hits
