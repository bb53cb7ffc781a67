"""The metrics against examples worked by hand, and what must hold for any texts."""

import math
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trainer.metrics import METRICS, anls, best, exact, f1, normalise, normalised, relaxed, vqa_accuracy

texts = st.text(max_size=40) | st.text(alphabet="ab10 -.,;'%()the", max_size=20)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Two dogs.", "2 dogs"),
        ("The red circle", "red circle"),
        ("none", "0"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("U.S.A.", "usa"),
        ("red/blue", "red blue"),
        ("red / blue", "red blue"),
        ("it's", "its"),
        ("-5", "-5"),
        ("from 3-5", "from 3 5"),
        ("A", "a"),
        ("?", "?"),
        ("  yes\n", "yes"),
        ("", ""),
    ],
)
def test_normalisation_is_that_of_vqa_with_the_exceptions_it_names(text: str, expected: str) -> None:
    assert normalise(text) == expected


@given(texts)
@example("a - -5")
@example("(-.5")
@example("a.-b")
def test_normalising_twice_is_normalising_once(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@given(texts)
def test_no_answer_is_normalised_to_nothing(text: str) -> None:
    assert bool(normalise(text)) == bool(text.split())


@pytest.mark.parametrize(
    ("expected", "answer", "value"),
    [
        # One substitution in five letters: 1 - 1/5.
        ("hello", "hellp", 0.8),
        # "seven" to "eleven": one substitution and one insertion in six.
        ("seven", "eleven", 1 - 2 / 6),
        # Half of the letters differ: at the threshold, so nothing.
        ("abcd", "abxy", 0.0),
        ("abc", "xyz", 0.0),
        ("Coca  Cola", "coca cola", 1.0),
        ("", "", 1.0),
        ("a", "", 0.0),
    ],
)
def test_anls_is_one_less_the_share_of_edits_below_a_half(expected: str, answer: str, value: float) -> None:
    assert anls(expected, answer) == pytest.approx(value)


@pytest.mark.parametrize(
    ("expected", "answer", "right"),
    [
        ("100", "105", True),
        ("100", "95", True),
        ("100", "105.01", False),
        ("1", "1.05", True),  # a float would say 0.05000000000000004
        ("-20", "-19", True),
        ("-20", "19", False),
        ("0", "0.0", True),
        ("0", "0.01", False),
        ("12%", "0.12", True),
        ("12%", "12", False),
        ("1,200", "1250", True),
        ("2e3", "2100", True),
        ("7", "7.", True),
        ("Red", "red", True),
        ("red", "blue", False),
        ("nan", "NaN", True),
        ("7", "seven", False),
    ],
)
def test_relaxed_accuracy_takes_numbers_within_five_percent(expected: str, answer: str, right: bool) -> None:
    assert relaxed(expected, answer) == float(right)


@given(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9))
def test_relaxed_accuracy_is_its_formula(target: int, found: int) -> None:
    thousandths = [str(Decimal(value) / 1000) for value in (target, found)]
    assert relaxed(*thousandths) == float(20 * abs(found - target) <= abs(target))


def test_exact_forgives_only_space_around() -> None:
    assert exact("red", " red ") == 1
    assert exact("red", "Red") == 0
    assert normalised("red", "Red.") == 1


@pytest.mark.parametrize(
    ("expected", "answer", "value"),
    [
        # Worked by SQuAD's published evaluate-v2.0.py: compute_f1(expected, answer).
        ("the Eiffel Tower", "Eiffel tower!", 1.0),
        ("in 1889", "1889", 2 / 3),
        ("two dogs and a cat", "two cats", 2 * (1 / 2) * (1 / 4) / (1 / 2 + 1 / 4)),
        ("two", "2", 0.0),  # numbers stay as they are written, which VQA's normalisation changes
        ("self-taught", "selftaught", 1.0),
        ("red", "", 0.0),
        ("a", "the", 1.0),  # nothing is left of either
    ],
)
def test_f1_is_squads(expected: str, answer: str, value: float) -> None:
    assert f1(expected, answer) == pytest.approx(value)


@pytest.mark.parametrize(("agreeing", "value"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_vqa_accuracy_of_ten_votes_is_the_mean_over_nine_of_them(agreeing: int, value: float) -> None:
    """The values that the published vqaEval.py gives, and that papers on VQA quote."""
    votes = ["Two."] * agreeing + [f"other {number}" for number in range(10 - agreeing)]
    assert vqa_accuracy(votes, "2") == pytest.approx(value)


@given(
    st.lists(st.sampled_from(["red", "blue", "a dog", "dog"]), min_size=10, max_size=20),
    st.sampled_from(["dog", "red"]),
)
def test_vqa_accuracy_of_votes_is_its_formula(votes: list[str], answer: str) -> None:
    folded = ["dog" if vote == "a dog" else vote for vote in votes]
    subsets = [folded[:place] + folded[place + 1 :] for place in range(len(folded))]
    expected = sum(min(subset.count(answer) / 3, 1) for subset in subsets) / len(subsets)
    assert vqa_accuracy(votes, answer) == pytest.approx(expected)


@given(st.lists(texts, min_size=1, max_size=9), texts)
def test_of_fewer_right_answers_each_is_wholly_right(expected: list[str], answer: str) -> None:
    assert all(vqa_accuracy(expected, each) == 1 for each in expected)
    assert vqa_accuracy(expected, answer) == best(normalised, expected, answer)


@pytest.mark.parametrize("name", METRICS)
@given(expected=st.lists(texts, min_size=1, max_size=5), answer=texts)
def test_of_several_right_answers_the_nearest_counts(name: str, expected: list[str], answer: str) -> None:
    metric = METRICS[name]
    found = best(metric, expected, answer)
    assert found == max(metric(each, answer) for each in expected)
    assert best(metric, [*expected, answer], answer) == 1


@pytest.mark.parametrize("name", METRICS)
@given(expected=texts, answer=texts)
def test_a_metric_lies_in_0_to_1_and_the_expected_answer_is_wholly_right(name: str, expected: str, answer: str) -> None:
    metric = METRICS[name]
    assert metric(expected, expected) == 1
    assert 0 <= metric(expected, answer) <= 1
    assert math.isfinite(metric(answer, expected))


@given(texts, texts)
def test_what_is_exact_is_right_by_every_metric(expected: str, answer: str) -> None:
    if exact(expected, answer):
        assert all(metric(expected, answer) == 1 for metric in METRICS.values())
