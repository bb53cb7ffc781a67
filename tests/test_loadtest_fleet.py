"""The simulated fleet keeps to what queueing theory says where that says anything, and to what routing must do."""

import json
import math
from dataclasses import replace

import pytest

from loadtest.load.fleet import Fleet, main, simulate
from loadtest.service.queueing import _erlang

ONE = Fleet(1, 1, "robin", busy=0.8, slots=4, requests=60_000)


def test_one_replica_waits_as_erlang_says() -> None:
    found = simulate(ONE)
    blocked = _erlang(4, 0.8)  # the wait is exponential of rate slots (1 - busy) where it has to wait
    assert found.hit == 1.0
    assert found.p50_s == pytest.approx(max(0.0, math.log(blocked / 0.5) / (4 * 0.2)), abs=0.05)
    assert found.p95_s == pytest.approx(math.log(blocked / 0.05) / (4 * 0.2), rel=0.1)


def test_uniform_adapters_are_there_as_often_as_they_fit() -> None:
    fleet = Fleet(4, 200, "robin", slots=16, loaded=50, skew=0.0, load_s=0.0, requests=20_000)
    assert simulate(fleet).hit == pytest.approx(0.25, abs=0.02)


def test_affinity_keeps_adapters_where_they_are() -> None:
    fleet = Fleet(8, 300, "affinity", loaded=64, requests=20_000)
    found, least = simulate(fleet), simulate(replace(fleet, routing="least"))
    assert found.hit > 0.95 > least.hit
    assert found.p95_s < 2 * least.p95_s


def test_a_surge_waits_for_the_start_of_replicas() -> None:
    def surged(start_s: float) -> float:
        return simulate(Fleet(4, 100, "affinity", surge=2.0, start_s=start_s, requests=20_000)).p95_s

    quick, slow, never = surged(10.0), surged(200.0), surged(0.0)
    assert quick < slow < never


def test_every_fleet_has_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--requests", "500", "--loaded", "4"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["case"] for line in lines].count("routing") == 9
    assert all(0 <= line["hit"] <= 1 for line in lines)
