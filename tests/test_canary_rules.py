"""What is done about a canary, by its figures alone."""

from dataclasses import replace

import pytest

from service.canary.options import Options
from service.canary.rules import Seen, decide
from service.canary.rules import VersionCounts as Counts

OPTIONS = Options(least=30)
FAST = {0.1: 90, 0.2: 10}
EVEN = Seen(Counts(80, 20, 100, 0, FAST), Counts(80, 20, 100, 0, FAST), hours=1.0, same=False, away=None)
BETTER = replace(EVEN, canary=Counts(98, 2, 100, 0, FAST))
WORSE = replace(EVEN, canary=Counts(40, 60, 100, 0, FAST))
# Its first questions waited until it was loaded and proven; later that is one in thirty.
JUST_LOADED = replace(EVEN, canary=Counts(32, 8, 40, 0, {0.1: 30, 5.0: 10}))
LONG_LOADED = Seen(
    Counts(80, 20, 310, seconds={0.1: 300, 5.0: 10}), Counts(80, 20, 1200, seconds={0.1: 1200}), 1.0, False, None
)
SLOW = Seen(Counts(answered=300, seconds={1.0: 300}), Counts(answered=300, seconds={0.1: 300}), 1.0, False, None)


@pytest.mark.parametrize(
    ("seen", "action", "why"),
    [
        (EVEN, "wait", "no evidence"),
        (BETTER, "promote", "98 of 100 against 80 of 100"),
        (WORSE, "roll back", "right less often"),
        (replace(EVEN, canary=Counts(80, 20, 70, 30, FAST)), "roll back", "fails more often"),
        (SLOW, "roll back", "its p95 is over 1.5 times stable's"),
        (JUST_LOADED, "wait", "no evidence"),
        (LONG_LOADED, "wait", "no evidence"),
        (replace(BETTER, canary=Counts(29, 0, 29, 0, FAST)), "wait", "30 of each are needed"),
        (replace(BETTER, stable=Counts(0, 0, 100, 0, FAST)), "wait", "30 of each are needed"),
        (replace(EVEN, hours=169.0), "roll back", "within 168 hours"),
        (replace(BETTER, hours=None), "promote", "right more often"),
        (replace(BETTER, away="http://b is away"), "wait", "http://b is away"),
        (replace(WORSE, away="http://b is away"), "roll back", "right less often"),
        (replace(WORSE, same=True), "finish", "already"),
    ],
)
def test_the_rules(seen: Seen, action: str, why: str) -> None:
    decision = decide(seen, OPTIONS)
    assert decision.action == action
    assert why in decision.reason


def test_what_fails_before_anything_is_judged_is_rolled_back() -> None:
    broken = Seen(Counts(failed=40), Counts(answered=400, seconds=dict(FAST)), 1.0, same=False, away=None)
    assert decide(broken, OPTIONS).action == "roll back"


def test_a_decision_tells_the_evidence_it_rests_on() -> None:
    told = decide(BETTER, OPTIONS).evidence
    assert told["better"] >= told["needed"] == 20
    assert told["worse"] < told["needed_worse"] == pytest.approx(60)
