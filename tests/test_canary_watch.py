"""The watcher over HTTP: it reads several replicas, moves aliases once, survives one that is away, says how to undo."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.canary.__main__ import main
from service.canary.options import Options
from service.canary.replicas import Replicas
from service.canary.watch import Watcher

NEW, OLD = "b" * 64, "a" * 64


class Service:
    """What the watcher sees of replicas of one store: their answers, made of one set of aliases."""

    def __init__(self) -> None:
        self.aliases = {"stable": [OLD, 0.0], "canary": [NEW, 0.2]}
        self.figures = {OLD: (60, 40), NEW: (60, 40)}
        self.kept_in = dict.fromkeys(("a", "b"), "shared")
        self.tag = 0
        self.fails: dict[str, list[int]] = {}
        self.behind: set[str] = set()
        self.changes: list[dict[str, Any]] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        host = request.url.host
        if self.fails.get(host):
            status = self.fails[host].pop()
            if status == 0:
                raise httpx.ConnectError("connection refused")
            return httpx.Response(status, json={"error": {"message": "not now"}})
        if request.url.path == "/v1/adapters":
            after = request.url.params["after"]
            weights = {alias: share for alias, (_, share) in self.aliases.items() if share}
            listed = [{"name": "digits", "weights": weights}] if after else [{"name": "shapes", "weights": {}}]
            return httpx.Response(200, json={"adapters": listed, "next": None if after else "shapes"})
        if request.method == "PUT":
            if request.headers["if-match"] != f'"{self.tag}"':
                return httpx.Response(412, json={"error": {"message": "changed meanwhile"}})
            change = json.loads(request.content)
            alias = self.aliases[change.get("alias", "stable")]
            alias[:] = [change.get("version", alias[0]), change.get("weight", alias[1])]
            self.changes.append(change)
            self.tag += 1
        return httpx.Response(200, json=self.detail(host), headers={"etag": f'"{self.tag}"'})

    def detail(self, host: str) -> dict[str, Any]:
        late = host in self.behind
        return {
            "since": "2026-11-29T10:00:00+00:00",
            "kept_in": self.kept_in[host],
            "aliases": {
                name: {"version": version, "weight": share, "serving": OLD if late else version}
                for name, (version, share) in self.aliases.items()
            },
            "versions": [
                {
                    "version": version,
                    "online": {"right": right, "wrong": wrong, "answered": 50, "failed": 0, "seconds": {"0.1": 50}},
                }
                for version, (right, wrong) in self.figures.items()
            ],
        }


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
def watcher(service: Service, slept: list[float], tmp_path: Path) -> Iterator[Watcher]:
    """Of two replicas, with a log."""
    watcher = Watcher(Options(url=("http://a", "http://b"), log=tmp_path / "log.jsonl", longest_h=1e9))
    watcher.replicas = Replicas(watcher.options.url, "a key", watcher.options.tries, slept.append)
    watcher.replicas._client = httpx.Client(
        transport=httpx.MockTransport(service.answer), headers=watcher.replicas._client.headers
    )
    yield watcher
    watcher.replicas._client.close()


def lines(watcher: Watcher) -> list[dict[str, Any]]:
    assert watcher.options.log is not None
    return [json.loads(line) for line in watcher.options.log.read_text().splitlines()]


def test_a_better_canary_is_promoted_and_the_line_says_how_to_undo_it(service: Service, watcher: Watcher) -> None:
    service.figures = {OLD: (60, 40), NEW: (90, 10)}
    assert watcher.look()
    assert service.aliases == {"stable": [NEW, 0.0], "canary": [NEW, 0.0]}
    (line,) = lines(watcher)
    assert (line["adapter"], line["decision"], line["acts"]) == ("digits", "promote", True)
    assert (line["canary"]["right"], line["stable"]["agreement"], line["canary"]["weight"]) == (90, 0.6, 0.2)
    undo = [json.loads(words[words.index("-d") + 1]) for words in map(shlex.split, line["undo"].split(" && "))]
    assert undo == [{"alias": "stable", "version": OLD}, {"alias": "canary", "weight": 0.2}]
    assert "a key" not in json.dumps(line)


def test_a_worse_canary_loses_its_share_and_keeps_its_name(service: Service, watcher: Watcher) -> None:
    service.figures = {OLD: (90, 10), NEW: (60, 40)}
    watcher.look()
    assert service.aliases == {"stable": [OLD, 0.0], "canary": [NEW, 0.0]}
    assert lines(watcher)[0]["decision"] == "roll back"


def test_feedback_of_a_shared_directory_counts_once_and_of_two_it_adds_up(service: Service, watcher: Watcher) -> None:
    watcher.look()
    service.kept_in = {"a": "one", "b": "two"}
    watcher.look()
    once, twice = lines(watcher)
    assert (once["canary"]["right"], twice["canary"]["right"]) == (60, 120)
    assert (once["canary"]["answered"], twice["canary"]["answered"]) == (100, 100)


def test_a_replica_that_is_away_is_asked_again_and_then_nothing_is_promoted(
    service: Service, watcher: Watcher, slept: list[float]
) -> None:
    service.figures = {OLD: (60, 40), NEW: (90, 10)}
    service.fails = {"b": [0] * 5}
    assert not watcher.look()
    assert slept == [1.0, 2.0, 4.0, 8.0]
    assert not service.changes
    assert "http://b is away: connection refused" in lines(watcher)[0]["reason"]
    service.fails = {"b": [503, 429]}
    watcher.look()
    assert lines(watcher)[-1]["decision"] == "promote"


def test_no_replica_at_all_is_no_verdict(service: Service, watcher: Watcher) -> None:
    service.fails = {"a": [502] * 5, "b": [0] * 5}
    assert not watcher.look()
    assert lines(watcher)[0]["decision"] == "wait"


def test_a_replica_that_serves_another_version_yet_is_waited_for(service: Service, watcher: Watcher) -> None:
    service.figures, service.behind = {OLD: (60, 40), NEW: (90, 10)}, {"b"}
    watcher.look()
    assert not service.changes
    assert "http://b does not serve" in lines(watcher)[0]["reason"]


def test_of_two_watchers_at_once_one_acts(service: Service, watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    service.figures = {OLD: (60, 40), NEW: (90, 10)}
    seen = watcher.replicas.canary("digits", "canary")
    watcher.look()
    changes = list(service.changes)
    watcher.options = watcher.options.model_copy(update={"adapter": ("digits",)})
    monkeypatch.setattr(watcher.replicas, "canary", lambda *_: seen)  # the other one looked before
    watcher.look()
    assert service.changes == changes
    assert "changed meanwhile" in lines(watcher)[-1]["reason"]


def test_one_killed_between_two_moves_is_finished_by_the_next(service: Service, watcher: Watcher) -> None:
    service.aliases = {"stable": [NEW, 0.0], "canary": [NEW, 0.2]}
    watcher.look()
    assert service.aliases["canary"] == [NEW, 0.0]
    assert lines(watcher)[0]["decision"] == "finish"


def test_a_dry_run_says_what_it_would_do_and_does_nothing(service: Service, watcher: Watcher) -> None:
    service.figures = {OLD: (60, 40), NEW: (90, 10)}
    watcher.options = watcher.options.model_copy(update={"dry_run": True})
    watcher.look()
    assert not service.changes
    assert (lines(watcher)[0]["decision"], lines(watcher)[0]["acts"]) == ("promote", False)


def test_a_key_that_may_not_is_told_and_asked_once(service: Service, watcher: Watcher, slept: list[float]) -> None:
    service.fails = {"a": [403]}
    assert not watcher.look()
    assert not slept
    assert "403: not now" in lines(watcher)[0]["reason"]


def test_help_teaches_and_a_wrong_option_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    assert "--dry-run" in told
    assert "CANARY_KEY" in told
    assert main(["--levle", "1"]) == 2
    assert "did you mean --level?" in capsys.readouterr().err
    assert main(["--url", "a:8000"]) == 2
    assert "option url" in capsys.readouterr().err
