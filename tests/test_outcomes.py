"""What came of questions, by version: since the aliases changed, bounded, and quantiles that are near."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from service.errors import Cancelled, InvalidRequest, Overloaded
from service.intervals import wilson
from service.outcomes import FAILED, Outcomes, quantile

THEN = datetime(2026, 11, 29, tzinfo=UTC)


def test_a_version_is_counted_by_what_it_may_be_to_blame_for() -> None:
    outcomes = Outcomes()
    for outcome in ("ok", "ok", *FAILED, InvalidRequest.code, Overloaded.code, Cancelled.code):
        outcomes.record("digits", "new", outcome, 0.2, THEN)
    tally = outcomes.of("digits", THEN)["new"]
    assert (tally.answered, tally.failed, tally.total_s) == (2, len(FAILED), 0.4)
    assert "internal" in FAILED


def test_all_versions_of_an_adapter_begin_anew_when_its_aliases_change() -> None:
    outcomes, later = Outcomes(), THEN + timedelta(seconds=1)
    outcomes.record("digits", "old", "ok", 0.2, THEN)
    assert outcomes.of("digits", later) == {}
    outcomes.record("digits", "new", "ok", 0.2, later)
    assert outcomes.of("digits", later).keys() == {"new"}


def test_the_adapters_asked_longest_ago_are_forgotten() -> None:
    outcomes = Outcomes(most=2)
    for name in ("a", "b", "a", "c"):
        outcomes.record(name, "v", "ok", 0.2, None)
    assert [bool(outcomes.of(name, None)) for name in "abc"] == [True, False, True]


@given(st.lists(st.floats(0.0011, 900), min_size=1, max_size=60), st.sampled_from([0.5, 0.95]))
def test_a_quantile_is_at_most_an_eighth_too_large(times: list[float], share: float) -> None:
    outcomes = Outcomes()
    for time in times:
        outcomes.record("digits", "new", "ok", time, None)
    exact = sorted(times)[max(0, -int(-share * len(times) // 1) - 1)]
    found = quantile(outcomes.of("digits", None)["new"].seconds, share)
    assert found is not None
    assert exact * 0.999 <= found <= exact * 1.123


def test_of_nothing_there_is_no_quantile_and_no_interval() -> None:
    assert quantile({}, 0.5) is None
    assert wilson(0, 0) is None


def test_wilson_s_interval_is_as_in_the_literature() -> None:
    """Newcombe, "Two-sided confidence intervals for the single proportion" (1998), table I."""
    for right, of, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)):
        found = wilson(right, of)
        assert found is not None
        assert (round(found.low, 4), round(found.high, 4)) == (low, high)
