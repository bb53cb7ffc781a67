"""The control without images: which rows are asked again, and what is said of the difference."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.row import Row
from trainer.evaluation.blind import blind_control, blind_places


def rows_of(count: int, category: str = "all", image: bool = True) -> list[Row]:
    return [
        Row(f"{category}-{n}", f"{category}-{n}.png" if image else None, "?", "red", category) for n in range(count)
    ]


def test_rows_are_spread_over_categories_and_text_is_left_out() -> None:
    rows = [*rows_of(500, "common"), *rows_of(10, "rare"), *rows_of(20, "text", image=False)]
    places = blind_places(rows, 200, seed=0)
    assert len(places) == 200
    chosen = [rows[place].category for place in places]
    assert (chosen.count("common"), chosen.count("rare"), chosen.count("text")) == (190, 10, 0)
    assert places == sorted(blind_places(rows, 200, seed=0))
    assert places != blind_places(rows, 200, seed=1)


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans()), max_size=60), st.integers(0, 40))
def test_no_more_rows_than_asked_for_none_twice_all_with_an_image(kinds: list[tuple[str, bool]], most: int) -> None:
    rows = [Row(str(n), "x.png" if image else None, "?", "", kind) for n, (kind, image) in enumerate(kinds)]
    places = blind_places(rows, most, seed=0)
    assert len(places) == min(most, sum(image for _, image in kinds)) == len(set(places))
    assert all(rows[place].image for place in places)


@pytest.mark.parametrize(
    ("shown", "hidden", "gain", "verdict"),
    [
        (90, 10, 0.8, "it looks at the pictures"),
        (60, 60, 0.0, "it does not look at the pictures: without them it is right as often"),
        (10, 60, -0.5, "it does not look at the pictures: without them it is right as often"),
        (0, 0, 0.0, "whether it looks at the pictures cannot be told: no answer is right, with them or without"),
        (61, 60, 0.01, "that it looks at the pictures is not shown: the interval of the difference includes zero"),
    ],
)
def test_the_verdict_is_by_the_interval_of_the_paired_difference(
    shown: int, hidden: int, gain: float, verdict: str
) -> None:
    """Of 100 questions the first `shown` are answered rightly with their images, the first `hidden` without."""
    rows = rows_of(100)
    with_it, without = (["red" if n < right else "blue" for n in range(100)] for right in (shown, hidden))
    found = blind_control(rows, with_it, without, seed=0)
    assert (found.rows, found.images, found.categories) == (100, 100, 1)
    assert found.shown.mean == pytest.approx(shown / 100)
    assert found.hidden.mean == pytest.approx(hidden / 100)
    assert found.gain.mean == pytest.approx(gain)
    assert found.gain.low <= found.gain.mean <= found.gain.high
    assert (found.verdict, found.looks) == (verdict, gain > 0.5)
