"""Settings of a sweep: the best one, and of the others only those that are surely worse are called so."""

import numpy as np
import pytest

from trainer.data.row import Row
from trainer.evaluation.report.sweep import page
from trainer.evaluation.settings import Setting, standings, table

ROWS = [Row(str(n), f"{n // 2}.png", "which?", "a", "all") for n in range(200)]


def setting(rank: str, *shares: float, seed: int = 0) -> Setting:
    """One whose seeds have these shares of the rows right, at random places."""
    generator = np.random.default_rng(seed)
    answers = tuple(
        tuple("a" if right else "b" for right in generator.permutation(np.arange(200) < round(200 * share)))
        for share in shares
    )
    return Setting({"rank": rank}, answers, 10.0)


def verdicts(*settings: Setting) -> dict[str, str]:
    return {each.setting.values["rank"]: each.verdict for each in standings(settings, ROWS)}


def test_what_is_far_behind_is_worse_and_what_is_near_is_not_told_apart() -> None:
    found = standings([setting("8", 0.5, seed=1), setting("16", 0.9, seed=2), setting("32", 0.89, seed=3)], ROWS)
    assert [each.setting.values["rank"] for each in found] == ["16", "32", "8"]
    assert [each.verdict for each in found] == ["best here", "not told apart from the best", "worse"]
    assert found[2].behind
    assert found[2].behind.mean == pytest.approx(-0.4)


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ((0.5, 0.9, 0.89), "1 of 2 others is surely worse</strong>; the rest are not told"),
        ((0.5, 0.9, 0.4), "All 2 others are surely worse</strong>, by these 100 images"),
        ((0.5, 0.9), "The other is surely worse</strong>, by these 100 images"),
    ],
)
def test_the_page_speaks_of_a_rest_only_where_there_is_one(shares: tuple[float, ...], said: str) -> None:
    found = standings([setting(str(n), share, seed=n + 1) for n, share in enumerate(shares)], ROWS)
    text = " ".join(page(found, ROWS).split())
    assert said in text
    assert ("the rest" in text) == ("the rest" in said)


def test_a_difference_within_the_spread_of_seeds_is_none() -> None:
    """The rows alone would call it one."""
    assert verdicts(setting("8", 0.7, 0.7), setting("16", 0.95, 0.69)) == {
        "16": "best here",
        "8": "not told apart from the best",
    }
    assert verdicts(setting("8", 0.7, 0.7), setting("16", 0.95, 0.95))["8"] == "worse"


def test_the_more_settings_there_are_the_wider_the_intervals() -> None:
    pair = [setting("8", 0.80, seed=1), setting("16", 0.9, seed=2)]
    many = [*pair, *(setting(str(n), 0.85, seed=n) for n in range(100, 120))]
    narrow, wide = (
        next(each.behind for each in standings(settings, ROWS) if each.setting.values["rank"] == "8")
        for settings in (pair, many)
    )
    assert narrow
    assert wide
    assert wide.high - wide.low > 1.2 * (narrow.high - narrow.low)


def test_equal_settings_are_wrongly_told_apart_in_few_sweeps() -> None:
    """Of sweeps of five settings that are alike one in twenty may find a difference: of twenty not over three do."""
    wrong = 0
    for sweep in range(20):
        settings = [setting(str(n), 0.8, seed=100 * sweep + n) for n in range(5)]
        # Each answers with luck of its own.
        generator = np.random.default_rng(sweep)
        settings = [
            Setting(each.values, (tuple("a" if hit else "b" for hit in generator.random(200) < 0.8),), 1.0)
            for each in settings
        ]
        wrong += any(each.real for each in standings(settings, ROWS, seed=sweep))
    assert wrong <= 3


def test_the_table_has_a_line_for_each() -> None:
    lines = table(standings([setting("8", 0.5), setting("16", 0.9)], ROWS)).splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("rank 16")
    assert lines[2].endswith("worse")
