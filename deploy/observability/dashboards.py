"""`python -m deploy.observability.dashboards`: writes the two Grafana dashboards, and the rules as a PrometheusRule.

`service.json` shows what callers see and what each adapter costs, `engine.json` what the engine does. They and the
PrometheusRule lie in the components of deploy/k8s, since kustomize reads no files from outside. `--check` writes
nothing and exits with 1 where a file is not as it would be written.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml
from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, TooltipDisplayMode
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DataSourceRef, GridPos, VariableRefresh

from deploy.observability.boards import ENGINE, SERVICE, Board, Panel

HERE = Path(__file__).parent
COMPONENTS = HERE.parent / "k8s/components"
RULES = ("rules.yaml", "alerts.yaml", "cluster.yaml")
_WIDTH, _HEIGHT, _COLUMNS = 8, 8, 3
_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")


BOARDS = {"service.json": SERVICE, "engine.json": ENGINE}


def _panel(panel: Panel, place: GridPos) -> timeseries.Panel:
    built = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.about)
        .datasource(_SOURCE)
        .unit(panel.unit)
        .min(0)
        .fill_opacity(10)
        .grid_pos(place)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    for number, (expression, legend) in enumerate(panel.queries):
        query = prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(chr(ord("A") + number)).range()
        built = built.with_target(query)
    return built


def _variables() -> list[Any]:
    source = dashboard.DatasourceVariable("datasource").type("prometheus")
    every = [source]
    for name, series in (("instance", "vqa_ready"), ("adapter", "vqa_requests_total")):
        every.append(
            dashboard.QueryVariable(name)
            .datasource(_SOURCE)
            .query(f'label_values({series}{{job="manylens"}}, {name})')
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
            .all_value(".*")
        )
    return every


def build(board: Board) -> str:
    """A dashboard as the JSON that Grafana imports."""
    built = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .tags(["manylens"])
        .refresh("30s")
        .time("now-3h", "now")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .variables(_variables())
    )
    line = 0
    for heading, panels in board.rows:
        built = built.with_row(dashboard.Row(heading).grid_pos(GridPos(h=1, w=24, x=0, y=line)))
        for number, panel in enumerate(panels):
            down, across = divmod(number, _COLUMNS)
            place = GridPos(h=_HEIGHT, w=_WIDTH, x=across * _WIDTH, y=line + 1 + down * _HEIGHT)
            built = built.with_panel(_panel(panel, place))
        line += 1 + -(-len(panels) // _COLUMNS) * _HEIGHT
    text: str = JSONEncoder(sort_keys=True, indent=2).encode(built.build())
    return text + "\n"


def rule_object() -> str:
    """The rules and alerts as the object that the Prometheus operator takes."""
    groups = [group for name in RULES for group in yaml.safe_load((HERE / name).read_text())["groups"]]
    made: dict[str, Any] = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "manylens"},
        "spec": {"groups": groups},
    }
    told = "# Written by `python -m deploy.observability.dashboards` from deploy/observability: change it there.\n"
    text: str = yaml.safe_dump(made, sort_keys=False, width=120)
    return told + text


def files() -> dict[Path, str]:
    """What is written, by where."""
    boards = {COMPONENTS / "grafana" / name: build(board) for name, board in BOARDS.items()}
    return boards | {COMPONENTS / "prometheus-operator/prometheusrule.yaml": rule_object()}


def main(arguments: list[str] | None = None) -> int:
    """Write the files, or check them; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.observability.dashboards", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 where a file is not as it would be")
    check, stale = parser.parse_args(arguments).check, 0
    for file, text in files().items():
        if check and (not file.exists() or file.read_text() != text):
            print(f"{file} is not what `python -m deploy.observability.dashboards` writes: run it")
            stale += 1
        elif not check:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
