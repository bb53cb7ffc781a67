"""What confidences are worth, against examples worked by hand, scikit-learn, and what must hold for any."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from trainer.evaluation.confidence import RISKS, aurc, bins, covered_at, ece, risk_coverage, sureness

# Few values, so that many answers share one.
confidences = st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]) | st.floats(0, 1)
answers = st.lists(st.tuples(confidences, st.booleans()), min_size=1, max_size=60)


def test_the_figures_of_five_answers_are_those_worked_by_hand() -> None:
    sure, right = [0.9, 0.8, 0.7, 0.6, 0.5], [True, True, False, True, False]
    found = sureness(sure, right)
    assert [point.coverage for point in found.curve] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1])
    assert [point.risk for point in found.curve] == pytest.approx([0, 0, 1 / 3, 1 / 4, 2 / 5])
    assert found.aurc == pytest.approx((0 + 0 + 1 / 3 + 1 / 4 + 2 / 5) / 5)
    assert found.brier == pytest.approx((0.01 + 0.04 + 0.49 + 0.16 + 0.25) / 5)
    assert found.ece == pytest.approx((0.1 + 0.2 + 0.7 + 0.4 + 0.5) / 5)  # a bin for each
    assert {risk: point and point.coverage for risk, point in found.at.items()} == {0.01: 0.4, 0.05: 0.4, 0.1: 0.4}
    assert covered_at(found.curve, 0.25) == found.curve[3]  # a larger coverage of less risk than the one before
    assert covered_at(found.curve, 0.25).threshold == 0.6  # type: ignore[union-attr]


def test_bins_of_equally_many_answers_and_brier_are_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    sure = generator.beta(5, 1, size=1500)
    right = generator.random(1500) < sure**2
    shares, means = calibration_curve(right, sure, n_bins=15, strategy="quantile")
    found = bins(sure.tolist(), right.tolist())
    assert [each.right for each in found] == pytest.approx(shares.tolist())
    assert [each.confidence for each in found] == pytest.approx(means.tolist())
    assert sureness(sure.tolist(), right.tolist()).brier == pytest.approx(brier_score_loss(right, sure))


def test_confidences_that_are_the_chances_have_a_small_error_and_overconfident_ones_theirs() -> None:
    generator = np.random.default_rng(1)
    sure = generator.random(20_000)
    honest, boastful = generator.random(20_000) < sure, generator.random(20_000) < sure - 0.2 * sure
    assert ece(sure.tolist(), honest.tolist()) < 0.015
    assert ece(sure.tolist(), boastful.tolist()) == pytest.approx(0.1, abs=0.015)  # 0.2 of a mean of 0.5


@given(answers)
def test_figures_are_shares_and_all_answers_are_in_them(pairs: list[tuple[float, bool]]) -> None:
    sure, right = [each for each, _ in pairs], [hit for _, hit in pairs]
    found = sureness(sure, right)
    assert all(0 <= value <= 1 for value in (found.ece, found.brier, found.aurc))
    assert sum(each.count for each in found.bins) == len(pairs)
    assert len(found.bins) <= 15
    last = found.curve[-1]
    assert last.coverage == 1
    assert last.risk == pytest.approx(1 - sum(right) / len(right))
    assert [point.threshold for point in found.curve] == sorted(set(sure), reverse=True)


@given(answers)
def test_each_point_of_the_curve_is_what_its_threshold_does(pairs: list[tuple[float, bool]]) -> None:
    for point in risk_coverage(*zip(*pairs, strict=True)):
        answered = [hit for each, hit in pairs if each >= point.threshold]
        assert point.coverage == pytest.approx(len(answered) / len(pairs))
        assert point.risk == pytest.approx(1 - sum(answered) / len(answered))


@given(answers, st.randoms())
def test_the_order_of_rows_does_not_matter(pairs: list[tuple[float, bool]], random: object) -> None:
    shuffled = list(pairs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for figure in (ece, aurc):
        assert figure(*zip(*shuffled, strict=True)) == pytest.approx(figure(*zip(*pairs, strict=True)))


@given(answers)
def test_what_parts_right_from_wrong_best_has_the_least_mean_risk(pairs: list[tuple[float, bool]]) -> None:
    sure, right = zip(*pairs, strict=True)
    perfect = [1.0 if hit else 0.0 for hit in right]
    assert aurc(perfect, right) <= aurc(sure, right) + 1e-9


@given(answers)
def test_coverage_at_a_risk_is_the_most_that_can_be_answered(pairs: list[tuple[float, bool]]) -> None:
    found = sureness(*zip(*pairs, strict=True))
    for risk in RISKS:
        point = found.at[risk]
        better = [each for each in found.curve if each.risk <= risk]
        assert (point is None) == (not better)
        assert point is None or point.coverage == max(each.coverage for each in better)


@pytest.mark.parametrize(("sure", "right"), [([], []), ([0.5], []), ([1.2], [True]), ([float("nan")], [True])])
def test_what_are_no_confidences_is_refused(sure: list[float], right: list[bool]) -> None:
    with pytest.raises(ValueError, match="confidence"):
        sureness(sure, right)
