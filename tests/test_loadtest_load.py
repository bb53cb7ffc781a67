"""The open-loop generator: arrivals, its summary, scenarios as our service takes them, and all of it for real."""

import itertools
import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from loadtest.client import Sent, Window, with_key
from loadtest.load import measure
from loadtest.load.__main__ import main
from loadtest.load.measure import arrivals, summary
from loadtest.load.scenarios import TENANTS, Scenario, keys_file, scenarios
from tests.conftest import ROOT, Running

NAMES = [f"a{number:05}" for number in range(200)]


def test_arrivals_are_poisson_s_and_the_same_for_a_seed() -> None:
    text = scenarios()["text"]
    due = list(arrivals(text, 50, 60, 1))
    gaps = [later.at - earlier.at for earlier, later in itertools.pairwise(due)]
    mean = sum(gaps) / len(gaps)
    assert 0.018 < mean < 0.022
    # Of an exponential the deviation is the mean.
    assert 0.9 < (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5 / mean < 1.1
    assert [each.at for each in arrivals(text, 50, 60, 1)] == [each.at for each in due]
    assert len({each.content for each in due}) == len(due)


def test_the_summary_counts_good_answers_in_time_and_errors_by_code() -> None:
    sent = [
        Sent("", 200, 0.1, at=0.0, tokens=3, first=0.05, last=0.09),
        Sent("", 200, 3.0, at=1.0),
        Sent("", 429, 0.01),
    ]
    found = summary(sent, 4.0, 1.0)
    assert (found["throughput"], found["goodput"], found["errors"]) == (0.5, 0.25, {"429": 1})
    assert (found["p50_ms"], found["p99_ms"]) == (100.0, 3000.0)
    assert (found["first_token_p50_ms"], found["token_p50_ms"]) == (50.0, 20.0)


def test_a_service_that_answers_nothing_but_errors_has_no_capacity(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Window([], [503, 503, 429], 3.0)
    monkeypatch.setattr(measure, "keep_asking", lambda *_: found)
    text = scenarios()["text"]
    with pytest.raises(RuntimeError, match=r"text: no answer but errors, by status: \{503: 2, 429: 1\}"):
        measure.capacity("http://nowhere", text, 3.0)
    found.statuses[:] = [200] * 6 + [503]
    assert measure.capacity("http://nowhere", text, 3.0) == 2.0
    found.statuses.clear()  # an answer takes longer than the window
    assert measure.capacity("http://nowhere", text, 3.0) == 0.5


def test_zipf_asks_the_first_adapter_most_and_uniform_asks_all_alike() -> None:
    dice, known = random.Random(0), scenarios(NAMES)
    skewed = Counter(known["adapters-200-zipf"].make(n, dice).flow for n in range(3000))
    even = Counter(known["adapters-8"].make(n, dice).flow for n in range(3000))
    assert skewed.most_common(1)[0][0] == NAMES[0]
    assert 0.14 < skewed[NAMES[0]] / 3000 < 0.20
    assert max(even.values()) < 1.3 * min(even.values())


# Photographs are decoded at the lowest priority: on a busy machine that takes a minute. The slow test asks them.
QUICK = [each for each in scenarios(["shapes"]).values() if not each.keys and not each.name.startswith("photo")]


@pytest.mark.parametrize("scenario", QUICK, ids=lambda each: each.name)
async def test_our_service_takes_every_scenario(fake: Running, scenario: Scenario) -> None:
    head, _, body = scenario.make(1, random.Random(0)).content.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    reply = await fake.client.post(first.split()[1], content=body, headers=dict(line.split(": ", 1) for line in lines))
    assert reply.status_code == 200, reply.text


def test_tenants_keys_are_those_of_the_file() -> None:
    tenants = scenarios()["tenants"]
    asked = {tenants.make(n, random.Random(n)).flow for n in range(50)}
    assert asked == set(TENANTS)
    assert json.loads(keys_file()).keys() == TENANTS.keys()
    assert with_key(b"POST / HTTP/1.1\r\nhost: a\r\n\r\n", "k") == (
        b"POST / HTTP/1.1\r\nauthorization: Bearer k\r\nhost: a\r\n\r\n"
    )


def test_a_scenario_that_there_is_not_is_answered_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--scenario", '["what"]']) == 2
    assert "photo-form: 12-megapixel JPEGs" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.timeout(1800)
def test_every_scenario_is_measured_on_the_real_engine(tmp_path: Path) -> None:
    output = tmp_path / "load.jsonl"
    assert main(["--seconds", "4", "--shares", "[0.5]", "--output", str(output), "--port", "8451"]) == 0
    lines = {line["scenario"]: line for line in map(json.loads, output.read_text().splitlines())}
    assert set(lines) == set(scenarios(NAMES))
    for line in lines.values():
        assert line["throughput"] > 0
        assert line["cpu_s_per_request"] > 0
        assert line["peak_mb"] > 500
    assert lines["stream"]["first_token_p50_ms"] <= lines["stream"]["p50_ms"]
    assert not lines["tenants"]["errors"]


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / "build/locust/venv/bin/locust").exists(), reason="make explore sets Locust up")
def test_locust_asks_every_scenario(tmp_path: Path) -> None:
    from loadtest.process import fake_service

    with fake_service(8452) as url:
        command = [str(ROOT / "build/locust/venv/bin/locust"), "-f", "loadtest/load/locustfile.py", "--host", url]
        command += ["--headless", "-u", "8", "-r", "8", "-t", "10s", "--csv", str(tmp_path / "locust")]
        subprocess.run(command, check=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": "."}, stderr=sys.stderr)
    rows = (tmp_path / "locust_stats.csv").read_text().splitlines()[1:]
    asked = {row.split(",")[1]: row.split(",")[2:4] for row in rows}
    assert {"small", "adapters-1", "photo-form", "ten", "text", "stream"} <= set(asked)
    assert all(failed == "0" for _, failed in asked.values())
