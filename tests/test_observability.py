"""Rules, alerts, dashboards, runbooks and the service agree with each other. `make test-alerts` tries them live."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml

from deploy.k8s.check import known_series
from deploy.observability import dashboards
from deploy.observability.boards import ENGINE, SERVICE

FOLDER = dashboards.HERE


def rules() -> list[dict[str, Any]]:
    groups = [group for name in dashboards.RULES for group in yaml.safe_load((FOLDER / name).read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def queries() -> Iterator[tuple[str, str]]:
    """Every expression, by where it stands."""
    for rule in rules():
        yield rule.get("alert") or rule["record"], rule["expr"]
    for board in (SERVICE, ENGINE):
        for panel in board.panels:
            for expression, _ in panel.queries:
                yield f"{board.uid}: {panel.title}", plain(expression)


def plain(expression: str) -> str:
    """A panel's query as Grafana sends it, with all chosen."""
    return expression.replace("$__rate_interval", "1m").replace("$instance", ".*").replace("$adapter", ".*")


@pytest.mark.parametrize(("where", "expression"), list(queries()))
def test_every_expression_parses_and_asks_for_series_that_there_are(where: str, expression: str) -> None:
    promql_parser.parse(expression)
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for name in re.findall(r"(?<![\w:])([a-z]+:vqa_[\w:]+)", expression):
        assert name in recorded, name
    for name in re.findall(r"(?<![\w:])(vqa_\w+|vllm:\w+)", expression):
        assert re.sub(r"_(bucket|sum|count)$", "", name) in known_series(), name


def test_no_panel_shows_a_counter_or_a_bucket_as_it_is_nor_divides_sums_that_only_grow() -> None:
    for where, expression in queries():
        for name in re.findall(r"(?<![\w:])((?:vqa|vllm:)\w+_(?:total|bucket|count|sum))", expression):
            told = re.search(rf"(rate|increase)\({name}|{name}{{[^}}]*}} unless", expression)
            assert told or where in ("AdapterRefused",), (where, name)


def test_every_alert_has_its_heading_in_the_runbooks_a_summary_and_a_test() -> None:
    headings = re.findall(r"^## (\w+)$", (FOLDER / "runbooks.md").read_text(), re.M)
    assert headings == [rule["alert"] for rule in alerts()]
    tests = (FOLDER / "tests.yaml").read_text()
    for rule in alerts():
        assert rule["annotations"]["runbook"] == f"runbooks.md#{rule['alert'].lower()}"
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert f'{{alertname="{rule["alert"]}"}}' in tests


def test_what_is_written_is_what_would_be(capsys: pytest.CaptureFixture[str]) -> None:
    assert dashboards.main(["--check"]) == 0, capsys.readouterr().out


def test_a_dashboard_that_was_changed_by_hand_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = {file: text + "\n" for file, text in dashboards.files().items()}
    monkeypatch.setattr(dashboards, "files", lambda: changed)
    assert dashboards.main(["--check"]) == 1


@pytest.mark.skipif(not shutil.which("promtool"), reason="needs promtool, of Prometheus")
def test_alerts_fire_where_they_must_and_nowhere_else() -> None:
    done = subprocess.run(["promtool", "test", "rules", "tests.yaml"], cwd=FOLDER, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for command in (["check", "config", "prometheus.yaml"], ["check", "rules", *dashboards.RULES]):
        checked = subprocess.run(["promtool", *command], cwd=FOLDER, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout + checked.stderr
