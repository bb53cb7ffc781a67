"""Bootstrap intervals and the table of metrics by category, against examples worked by hand."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.row import Row
from trainer.evaluation.intervals import DRAWS, intervals
from trainer.evaluation.score import VQA, by_category, mark, measure, measure_groups, right, score
from trainer.metrics import METRICS

ROWS = [
    Row("1", "a.png", "what colour?", "red", "colour"),
    Row("2", "a.png", "how many?", "2", "count"),
    Row("3", "b.png", "what colour?", "blue", "colour"),
    Row("4", "c.png", "how many?", "100", "count"),
]
BASE = ["red", "3", "red", "90"]
ADAPTER = ["Red.", "two", "green", "98"]


def test_counts_are_of_right_answers_by_normalised_match() -> None:
    total = score(ROWS, BASE, ADAPTER)
    assert (total.rows, total.base, total.adapter) == (4, 1, 2)
    assert {name: (found.base, found.adapter) for name, found in by_category(ROWS, BASE, ADAPTER).items()} == {
        "colour": (1, 1),
        "count": (0, 1),
    }


def test_every_metric_has_its_mean_by_category_and_over_all() -> None:
    found = {(each.metric, each.category): each for each in measure(ROWS, BASE, ADAPTER)}
    assert {category for _, category in found} == {"colour", "count", "all"}
    assert found["normalised", "all"].adapter.mean == 0.5
    assert found["normalised", "all"].gain.mean == pytest.approx(0.25)
    assert found["exact", "colour"].base.mean == 0.5
    assert found["exact", "colour"].gain.mean == -0.5
    # "98" is within 5% of 100, "90" is not, and "two" is no number.
    assert (found["relaxed", "count"].base.mean, found["relaxed", "count"].adapter.mean) == (0, 0.5)
    # "red" is wholly itself, "Red." has one letter more: (3/4 + 0) / 2.
    assert found["anls", "colour"].adapter.mean == pytest.approx(0.375)
    assert (found["anls", "all"].rows, found["anls", "all"].images) == (4, 3)


def test_groups_are_counted_in_lavins_order_and_a_row_in_each_of_its_own() -> None:
    in_groups = [("NAT", "TXT", "IMG"), ("LAN", "NO"), ("own", "NAT"), ()]
    rows = [replace(row, groups=groups) for row, groups in zip(ROWS, in_groups, strict=True)]
    found = measure_groups(rows, BASE, ADAPTER, "normalised")
    assert [(each.category, each.rows) for each in found] == [
        *(("NAT", 2), ("LAN", 1), ("TXT", 1), ("IMG", 1), ("NO", 1), ("own", 1), ("all", 4))
    ]
    assert [each.adapter.mean for each in found] == [0.5, 1, 1, 1, 1, 0, 0.5]
    assert measure_groups(ROWS, BASE, ADAPTER, "normalised") == []


def test_rows_that_name_no_category_are_counted_once() -> None:
    rows = [Row(str(n), None, "?", "yes", "all") for n in range(3)]
    assert len(measure(rows, ["no"] * 3, ["yes"] * 3)) == len(METRICS)


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_the_interval_of_independent_rows_is_that_of_the_binomial(share: float) -> None:
    count = 400
    column = np.zeros((count, 1))
    column[: int(share * count)] = 1
    (found,) = intervals(column, range(count), seed=0)
    half = 1.96 * (share * (1 - share) / count) ** 0.5
    assert found.mean == pytest.approx(share)
    assert (found.mean - found.low, found.high - found.mean) == pytest.approx((half, half), rel=0.12)


def test_rows_of_one_image_count_as_one_piece_of_evidence() -> None:
    column = np.repeat(np.arange(50) % 2, 8).astype(float)[:, None]
    (alone,), (together,) = intervals(column, range(400), 0), intervals(column, [n // 8 for n in range(400)], 0)
    # Eight rows that always agree tell as much as one: the interval is wider by the root of eight.
    assert (together.high - together.low) / (alone.high - alone.low) == pytest.approx(8**0.5, rel=0.12)


def test_a_difference_is_paired() -> None:
    """Two models that are right on the same half but for one row differ surely, though each alone is unsure."""
    base = np.arange(200) % 2 * 1.0
    columns = np.stack([base, np.minimum(base + 0.1, 1.1), np.full(200, 0.1)], axis=1)
    one, other, gain = intervals(columns, range(200), 0)
    assert one.high > other.low
    assert gain.low == pytest.approx(0.1)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=20), st.integers(0, 100))
def test_an_interval_lies_around_its_mean_and_a_seed_repeats_it(values: list[float], seed: int) -> None:
    column = np.array(values)[:, None]
    (found,) = intervals(column, range(len(values)), seed)
    assert min(values) <= found.low <= found.mean + 1e-9
    assert found.mean - 1e-9 <= found.high <= max(values)
    assert intervals(column, range(len(values)), seed) == [found]
    assert DRAWS >= 1000


def test_no_rows_are_refused_rather_than_scored() -> None:
    with pytest.raises(ValueError, match="0 rows"):
        measure([], [], [])


def test_of_several_right_answers_any_counts_and_of_ten_votes_two() -> None:
    alternatives = replace(ROWS[0], answers=("red", "crimson", "dark red"))
    votes = replace(ROWS[1], answers=("2", "2", "2", "2", "2", "3", "3", "4", "5", "6"))
    assert [right(alternatives, said) for said in ("Crimson.", "dark red", "pink")] == [True, True, False]
    assert [right(votes, said) for said in ("two", "3", "4")] == [True, True, False]
    assert [mark(VQA, votes, said) for said in ("2", "3", "4")] == pytest.approx([1.0, 0.6, 0.3])
    assert mark("anls", alternatives, "dark rad") == pytest.approx(1 - 1 / 8)
    assert mark("normalised", votes, "4") == 0


def test_vqa_accuracy_is_reported_where_rows_have_several_right_answers() -> None:
    several = [*ROWS[:3], replace(ROWS[3], answers=("100", "98"))]
    assert VQA not in {each.metric for each in measure(ROWS, BASE, ADAPTER)}
    found = {(each.metric, each.category): each for each in measure(several, BASE, ADAPTER)}
    assert (found[VQA, "count"].base.mean, found[VQA, "count"].adapter.mean) == (0, 1)
