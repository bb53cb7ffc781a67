"""deploy/compose: what it mounts is there, its options are the service's, and its Prometheus takes what it is given.

The containers themselves were not started: their images are not ours.
"""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings
from tests.conftest import ROOT

FOLDER = ROOT / "deploy/compose"
SERVICES: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]


def test_all_that_is_mounted_is_there() -> None:
    named = yaml.safe_load((FOLDER / "compose.yaml").read_text())["volumes"]
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source, target = volume.split(":")[:2]
            assert source in named or (FOLDER / source).exists(), source
            assert target.startswith("/")


def test_the_service_is_built_from_a_target_of_the_dockerfile_with_options_it_has() -> None:
    service = SERVICES["manylens"]
    assert (FOLDER / service["build"]["context"]).resolve() == ROOT
    assert f" AS {service['build']['target']}\n" in (ROOT / "Dockerfile").read_text()
    options = {f"VQA_{name.upper()}" for name in Settings.model_fields}
    assert {name for name in service["environment"] if name.startswith("VQA_")} <= options
    defaults = Settings.model_fields
    assert (
        int(service["stop_grace_period"].rstrip("s")) >= defaults["lame_duck_s"].default + defaults["drain_s"].default
    )


def test_nothing_is_reachable_from_other_machines() -> None:
    assert all(port.startswith("127.0.0.1:") for service in SERVICES.values() for port in service.get("ports", []))


def test_what_scrapes_and_what_shows_find_each_other() -> None:
    scraped = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())["scrape_configs"][0]
    assert scraped["job_name"] == "manylens"  # as the rules have it
    port = SERVICES["manylens"]["environment"]["VQA_METRICS_PORT"]
    assert scraped["static_configs"][0]["targets"] == [f"manylens:{port}"]
    (source,) = yaml.safe_load((FOLDER / "grafana/sources.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((FOLDER / "grafana/dashboards.yaml").read_text())["providers"]
    assert any(volume.split(":")[1] == provider["options"]["path"] for volume in SERVICES["grafana"]["volumes"])


@pytest.mark.skipif(not shutil.which("promtool"), reason="needs promtool, of Prometheus")
def test_prometheus_takes_its_configuration_as_it_is_mounted(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "deploy/observability", tmp_path / "observability")
    shutil.copy(FOLDER / "prometheus.yaml", tmp_path / "prometheus.yml")
    done = subprocess.run(
        ["promtool", "check", "config", "prometheus.yml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
