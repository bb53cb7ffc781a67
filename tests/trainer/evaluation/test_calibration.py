"""Calibrations fitted to answers: they find what is wrong with confidences, on rows that they have not seen."""

import numpy as np
import pytest

from trainer.data.row import Row
from trainer.errors import OptionError
from trainer.evaluation.calibration import TooFewAnswers, calibrate
from trainer.evaluation.result import ModelAnswer


def answered(
    count: int, seed: int, power: float = 3.0, images: int | None = None
) -> tuple[list[Row], list[ModelAnswer]]:
    """Rows that are right with the probability confidence ** power: with 3 the model is far too sure."""
    generator = np.random.default_rng(seed)
    sure = generator.beta(4, 1, size=count)
    hits = generator.random(count) < sure**power
    rows = [Row(str(n), f"{n % (images or count)}.png", "?", "yes", "all") for n in range(count)]
    return rows, [ModelAnswer("yes" if hit else "no", float(each)) for hit, each in zip(hits, sure, strict=True)]


@pytest.mark.parametrize("count", [300, 3000])
def test_overconfidence_is_found_and_mended_on_rows_never_seen(count: int) -> None:
    found = calibrate(*answered(count, seed=0), "int4")
    assert found.before.ece > 0.15
    assert found.after.ece < found.before.ece / 2
    assert found.after.brier < found.before.brier
    assert (found.rows, found.images, found.precision) == (count, count, "int4")
    assert found.method == "platt" or count >= 1000  # too few for isotonic regression
    rows, said = answered(20_000, seed=1)
    sure = np.array([each.confidence for each in said])
    hits = np.array([each.text == row.answer for row, each in zip(rows, said, strict=True)])
    for low, high in ((0.5, 0.7), (0.7, 0.9), (0.9, 1.0)):
        within = (sure >= low) & (sure < high)
        calibrated = np.mean([found(each) for each in sure[within]])
        assert calibrated == pytest.approx(hits[within].mean(), abs=0.08)


@pytest.mark.parametrize("seed", range(5))
def test_a_confidence_that_is_right_already_is_never_made_worse(seed: int) -> None:
    """Of few rows Platt's fit follows chance; where it does worse on rows unseen, the confidence is kept as it is."""
    found = calibrate(*answered(200, seed, power=1.0), "int4")
    assert found.after.brier <= found.before.brier
    if (found.slope, found.intercept) == (1, 0):
        assert found.after == found.before
        assert found(0.7) == pytest.approx(0.7)


def test_the_curve_says_what_a_threshold_does_to_new_rows() -> None:
    found = calibrate(*answered(3000, seed=0), "int4")
    rows, said = answered(20_000, seed=2)
    new = np.array([found(each.confidence) for each in said if each.confidence is not None])
    wrong = np.array([each.text != row.answer for row, each in zip(rows, said, strict=True)])
    for below in (0.5, 0.7, 0.85):
        point = found.at(below)
        assert point is not None
        assert point.coverage == pytest.approx((new >= below).mean(), abs=0.05)
        assert point.risk == pytest.approx(wrong[new >= below].mean(), abs=0.05)
    assert len(found.curve) <= 200
    assert found.curve[-1].coverage == 1


def test_the_same_answers_give_the_same_calibration_but_for_its_time() -> None:
    one, other = (calibrate(*answered(1500, seed=3), "int4") for _ in range(2))
    assert one.model_copy(update={"made": ""}) == other.model_copy(update={"made": ""})


@pytest.mark.parametrize(
    ("count", "power", "images"),
    [(49, 3.0, None), (60, 0.0, None), (60, 1e9, None), (60, 3.0, 4)],
    ids=["few rows", "none wrong", "none right", "few images"],
)
def test_too_few_answers_are_refused_in_numbers(count: int, power: float, images: int | None) -> None:
    with pytest.raises(TooFewAnswers, match=f"{count} answers with a confidence about"):
        calibrate(*answered(count, 0, power, images), "int4")


def test_a_confidence_that_says_the_contrary_is_refused() -> None:
    rows, said = answered(400, seed=0)
    contrary = [ModelAnswer(each.text, 1 - (each.confidence or 0)) for each in said]
    with pytest.raises(OptionError, match="not right more often"):
        calibrate(rows, contrary, "int4")


def test_answers_without_a_confidence_are_left_out() -> None:
    rows, said = answered(200, seed=0)
    assert calibrate(rows, [*said[:150], *(ModelAnswer("yes") for _ in said[150:])], "int4").rows == 150
