"""The watcher's test: wrong decisions over many looks stay within the level, and a real difference is found."""

import numpy as np
import pytest

from service.canary.evidence import Share, evidence

LEVEL, LEAST, ANSWERS, LOOKS = 0.05, 30, 1500, 60


def decided(canary: float, stable: float, share: float, runs: int, seed: int) -> float:
    """The share of runs in which a canary is found better at any of many looks, each canary with `share` of answers."""
    generator = np.random.default_rng(seed)
    found = 0
    for _ in range(runs):
        is_canary = generator.random(ANSWERS) < share
        right = generator.random(ANSWERS) < np.where(is_canary, canary, stable)
        ends = np.linspace(LEAST, ANSWERS, LOOKS).astype(int) - 1
        of, count = np.cumsum(is_canary)[ends], np.cumsum(is_canary & right)[ends]
        others, their = np.cumsum(~is_canary)[ends], np.cumsum(~is_canary & right)[ends]
        found += any(
            evidence(Share(int(a), int(b)), Share(int(c), int(d))) >= 1 / LEVEL
            for a, b, c, d in zip(count, of, their, others, strict=True)
            if min(b, d) >= LEAST
        )
    return found / runs


@pytest.mark.parametrize("right", [0.05, 0.3, 0.6, 0.9, 0.98])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_canary_that_is_no_better_is_found_better_within_the_level(right: float, share: float) -> None:
    """A true rate of 0.05 gives more than 29 of 400 runs once in a hundred times: so much is let pass."""
    assert decided(right, right, share, 400, seed=1) <= LEVEL + 0.023


def test_a_fixed_test_at_every_look_would_not_keep_the_level() -> None:
    """What the watcher must not do: z over 1.645 at any of the looks is no rare thing."""
    generator, found = np.random.default_rng(2), 0
    for _ in range(400):
        is_canary, right = generator.random(ANSWERS) < 0.5, generator.random(ANSWERS) < 0.6
        ends = np.linspace(LEAST, ANSWERS, LOOKS).astype(int) - 1
        of, others = np.cumsum(is_canary)[ends], np.cumsum(~is_canary)[ends]
        difference = np.cumsum(is_canary & right)[ends] / of - np.cumsum(~is_canary & right)[ends] / others
        found += bool((difference / np.sqrt(0.6 * 0.4 * (1 / of + 1 / others)) > 1.645).any())
    assert found / 400 > 0.15


def test_a_real_difference_is_found() -> None:
    assert decided(0.85, 0.65, 0.2, 100, seed=3) >= 0.95
    assert decided(0.65, 0.85, 0.2, 100, seed=4) == 0.0


def test_of_nothing_there_is_no_evidence_and_of_much_it_is_a_number() -> None:
    assert evidence(Share(0, 0), Share(5, 10)) == 1.0
    assert evidence(Share(10**6, 10**6), Share(0, 10**6)) > 1e300
    assert evidence(Share(0, 10**6), Share(10**6, 10**6)) >= 0.0
