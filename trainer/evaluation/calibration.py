"""Confidences and whether answers were right -> the calibration that a version carries (service/calibration.py).

Two maps are tried by cross-validation, folds parted by image: Platt's, a logistic regression on the confidence's
log-odds (Platt, 1999), and isotonic regression (Zadrozny and Elkan, KDD 2002), which needs many rows. Where neither
has a lower Brier score than the confidence itself, that is kept as it is: Platt's map with slope 1 and intercept 0.
Errors and risk-coverage curve are stored as found on rows that the fit had not seen.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from service.calibration import MOST_POINTS, MOST_STEPS, Calibration, CalibrationErrors, Covered, log_odds, sigmoid
from trainer.adapter.version import now, trainer_version
from trainer.data.row import Row
from trainer.errors import OptionError
from trainer.evaluation import confidence as figures
from trainer.evaluation.confidence import Floats
from trainer.evaluation.result import ModelAnswer
from trainer.evaluation.score import right

# The fewest rows, and the fewest right and wrong answers among them, that a calibration is fitted to.
FEWEST, FEWEST_EACH = 50, 5
# Rows from which on isotonic regression is tried; on fewer it overfits (scikit-learn's guide: "too few, << 1000").
_MANY = 1000
_FOLDS = 5
# Digits of shares in the file.
_DIGITS = 6

_T = TypeVar("_T")

log = logging.getLogger(__name__)


class TooFewAnswers(OptionError):
    """There are not enough rows, or right or wrong answers to them, to calibrate by."""


@dataclass(frozen=True, slots=True)
class _Fit:
    """A fitted map, as `Calibration` writes it."""

    slope: float = 1.0
    intercept: float = 0.0
    steps: tuple[tuple[float, float], ...] = ()

    def __call__(self, sure: Floats) -> Floats:
        if self.steps:
            points = np.array(self.steps)
            return np.asarray(np.interp(sure, points[:, 0], points[:, 1]), np.float64)
        return np.array([sigmoid(self.slope * log_odds(each) + self.intercept) for each in sure])


def calibrate(rows: Sequence[Row], answers: Sequence[ModelAnswer], precision: str) -> Calibration:
    """The calibration by an adapter's `answers` to held-out `rows`; those without a confidence are left out.

    `precision` is that of the base that was asked.

    Raises:
        TooFewAnswers: fewer than `FEWEST` rows, than `_FOLDS` images, or than `FEWEST_EACH` right or wrong answers.
        OptionError: surer answers are not right more often, and no increasing map can mend that.
    """
    known = [
        (row, each.text, each.confidence)
        for row, each in zip(rows, answers, strict=True)
        if each.confidence is not None
    ]
    sure = np.array([confidence for _, _, confidence in known], np.float64)
    hits = np.array([right(row, text) for row, text, _ in known], np.float64)
    groups = [row.image or row.id for row, _, _ in known]
    _check(hits, groups)
    fits: dict[str, Callable[[Floats, Floats], _Fit]] = {"unchanged": _unchanged, "platt": _platt}
    if len(known) >= _MANY:
        fits["isotonic"] = _isotonic
    unseen = {name: _cross_fitted(fit, sure, hits, groups) for name, fit in fits.items()}
    method = min(unseen, key=lambda name: figures.brier(unseen[name], hits))
    fit = fits[method](sure, hits)
    if fit.slope <= 0:
        raise OptionError(
            f"of {len(known)} answers the surer are not right more often: this confidence cannot be calibrated"
        )
    found = Calibration(
        method="isotonic" if fit.steps else "platt",
        slope=fit.slope if not fit.steps else 1.0,
        intercept=fit.intercept,
        steps=fit.steps,
        curve=_curve(unseen[method], hits),
        rows=len(known),
        images=len({row.image for row, _, _ in known if row.image}),
        before=_errors(sure, hits),
        after=_errors(unseen[method], hits),
        precision=precision,
        made=now(),
        trainer=trainer_version(),
    )
    log.info(
        "%s on %d answers: ECE %.1f points before, %.1f after, on rows that the fit had not seen",
        "confidence kept as it is, no map lowers its Brier score"
        if method == "unchanged"
        else f"calibrated by {method}",
        *(found.rows, 100 * found.before.ece, 100 * found.after.ece),
    )
    return found


def _check(hits: Floats, groups: Sequence[str]) -> None:
    count, wrong = len(hits), int(len(hits) - hits.sum())
    if count >= FEWEST and FEWEST_EACH <= wrong <= count - FEWEST_EACH and len(set(groups)) >= _FOLDS:
        return
    raise TooFewAnswers(
        f"{count} answers with a confidence about {len(set(groups))} images, {wrong} of them wrong: a calibration wants"
        f" {FEWEST} about {_FOLDS}, with {FEWEST_EACH} right and {FEWEST_EACH} wrong ones: give more held-out rows"
    )


def _cross_fitted(fit: Callable[[Floats, Floats], _Fit], sure: Floats, hits: Floats, groups: Sequence[str]) -> Floats:
    """What each answer's confidence becomes by a fit to the other folds, none of which has its image."""
    found = np.empty_like(sure)
    for others, own in GroupKFold(_FOLDS).split(sure, hits, groups):
        found[own] = fit(sure[others], hits[others])(sure[own])
    return found


def _unchanged(_sure: Floats, _hits: Floats) -> _Fit:
    return _Fit()


def _platt(sure: Floats, hits: Floats) -> _Fit:
    if len(set(hits.tolist())) < 2:  # a fold without a wrong answer
        return _Fit()
    model = LogisticRegression().fit([[log_odds(each)] for each in sure], hits)
    return _Fit(round(float(model.coef_[0, 0]), _DIGITS), round(float(model.intercept_[0]), _DIGITS))


def _isotonic(sure: Floats, hits: Floats) -> _Fit:
    model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(sure, hits)
    steps = list(zip(model.X_thresholds_.tolist(), model.y_thresholds_.tolist(), strict=True))
    return _Fit(steps=tuple((round(at, _DIGITS), round(share, _DIGITS)) for at, share in _thinned(steps, MOST_STEPS)))


def _curve(sure: Floats, hits: Floats) -> tuple[Covered, ...]:
    """At most `MOST_POINTS` thresholds, evenly over all there are, the last among them."""
    return tuple(
        Covered(
            threshold=round(point.threshold, _DIGITS),
            coverage=round(point.coverage, _DIGITS),
            risk=round(point.risk, _DIGITS),
        )
        for point in _thinned(figures.risk_coverage(sure, hits), MOST_POINTS)
    )


def _errors(sure: Floats, hits: Floats) -> CalibrationErrors:
    ece, brier = figures.ece(sure, hits), figures.brier(sure, hits)
    return CalibrationErrors(ece=round(ece, _DIGITS), brier=round(brier, _DIGITS))


def _thinned(found: Sequence[_T], most: int) -> list[_T]:
    if len(found) <= most:
        return list(found)
    return [found[round(place)] for place in np.linspace(0, len(found) - 1, most)]
