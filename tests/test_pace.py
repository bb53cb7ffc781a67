"""Deadlines follow from how fast the model answers, unless they were set; those set too short are named."""

import logging

import pytest

from service.engine.fake import FakeEngine
from service.pace import Pace
from service.settings import Settings
from tests.conftest import Running, serving


def pace(first_s: float, token_s: float, **options: float) -> Pace:
    found = Pace(Settings(**options))  # type: ignore[arg-type]
    found.measured(first_s, token_s)
    return found


def test_a_fast_model_has_half_a_minute() -> None:
    fast = pace(0.2, 0.01)
    assert (fast.deadline_s, fast.canary_deadline_s, fast.slow) == (30, 30, False)


def test_a_slow_model_has_what_it_takes() -> None:
    slow = pace(23.0, 2.3)  # the 7B on two busy cores
    assert slow.slow
    assert slow.deadline_s == pytest.approx(2 * (23 + 63 * 2.3))
    assert slow.canary_deadline_s == pytest.approx(92)


def test_what_was_set_stays_and_is_reported_when_it_is_too_short(caplog: pytest.LogCaptureFixture) -> None:
    set_short = pace(23.0, 2.3, deadline_s=30.0, engine_canary_deadline_s=20.0)
    assert (set_short.deadline_s, set_short.canary_deadline_s) == (30, 20)
    set_short.report()
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [line.split()[1] for line in warned] == ["deadline_s", "engine_canary_deadline_s"]
    assert "took 167.9 s alone" in warned[0]


async def test_a_service_measures_its_engine_before_it_is_ready() -> None:
    async with serving(Settings(adapters="tests", port=0), FakeEngine(step_s=0.05)) as running:
        assert isinstance(running, Running)
        found = running.app.state.service.engine.pace
        assert found.first_s >= 0.05
        assert running.app.state.service.deadline_s == 30
