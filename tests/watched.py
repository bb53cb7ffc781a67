"""A Prometheus and an Alertmanager that watch services of ours, with every duration of the rules divided."""

import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import yaml

from deploy.observability import dashboards
from tests.balancers import free_port

# A minute of the rules is a second here.
FASTER = 60
PATIENCE_S = 240.0
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
ALERTMANAGER = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")


def quicker(text: str) -> str:
    """The rules with all their windows, waits and offsets divided by FASTER; names keep the windows they had."""

    def shorter(found: re.Match[str]) -> str:
        before, number, unit, after = found.groups()
        return f"{before}{int(number) * _SECONDS[unit] * 1000 // FASTER}ms{after}"

    for pattern in (r"(\[)(\d+)([smhd])(\])", r"(for: )(\d+)([smhd])()", r"(offset )(\d+)([smhd])()"):
        text = re.sub(pattern, shorter, text)
    return text


class Watch:
    """Both programs, what they watch, and what they sent to their receiver: `heard` has (alert, state, when)."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.heard = folder, list[tuple[str, str, float]]()
        self.url, self.began = f"http://127.0.0.1:{free_port()}", time.time()
        self._targets: list[str] = []
        self._receiver = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._receiver.serve_forever, daemon=True).start()
        self._programs = [self._start_alertmanager(alerting := free_port()), self._start_prometheus(alerting)]

    def add(self, port: int) -> None:
        """Scrape 127.0.0.1:`port` too."""
        self._targets.append(f"127.0.0.1:{port}")
        (self.folder / "targets.json").write_text(json.dumps([{"targets": self._targets}]))

    def stop(self) -> None:
        for program in self._programs:
            program.terminate()
            program.wait(30)
        self._receiver.shutdown()
        self._receiver.server_close()

    def fires(self, *alerts: str, after: float) -> dict[str, float]:
        """Wait until the receiver was told of each; seconds from `after` to that."""
        for alert in alerts:
            wait(lambda: bool(self._fired(alert, after)), f"{alert} fires; heard: {self.heard[-8:]}")  # noqa: B023
        return {alert: self._fired(alert, after)[0] - after for alert in alerts}

    def resolves(self, *alerts: str) -> None:
        """Wait until the last that the receiver was told of each is that it is over."""
        for alert in alerts:
            wait(lambda: self._last(alert) == "resolved", f"{alert} is over; heard: {self.heard[-8:]}")  # noqa: B023

    def query(self, expression: str) -> list[dict[str, Any]]:
        """A series each, over all the time that was watched."""
        now = time.time()
        step = max(1, int((now - self.began) / 1000))
        about = {"query": expression, "start": str(self.began), "end": str(now), "step": str(step)}
        answer = httpx.post(f"{self.url}/api/v1/query_range", data=about, timeout=60)
        found: list[dict[str, Any]] = answer.raise_for_status().json()["data"]["result"]
        return found

    def now(self, expression: str) -> list[float]:
        """The values just now, one for each series."""
        found = httpx.get(f"{self.url}/api/v1/query", params={"query": expression}, timeout=30).raise_for_status()
        return [float(each["value"][1]) for each in found.json()["data"]["result"]]

    def _fired(self, alert: str, after: float) -> list[float]:
        return [when for name, state, when in self.heard if (name, state) == (alert, "firing") and when >= after]

    def _last(self, alert: str) -> str:
        return [state for name, state, _ in self.heard if name == alert][-1]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        heard = self.heard

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                heard.append(
                    (body["groupLabels"]["alertname"], body["status"], time.time())
                )  # firing: any of its alerts
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def _start_alertmanager(self, port: int) -> "subprocess.Popen[bytes]":
        config = yaml.safe_load((dashboards.HERE / "alertmanager.yaml").read_text())
        config["route"] |= {"group_wait": "0s", "group_interval": "1s"}
        hook = f"http://127.0.0.1:{self._receiver.server_address[1]}/"
        config["receivers"][0]["webhook_configs"][0]["url"] = hook
        (self.folder / "alertmanager.yaml").write_text(yaml.safe_dump(config))
        more = ["--cluster.listen-address=", "--storage.path=alertmanager"]
        assert ALERTMANAGER is not None
        return self._run(
            [ALERTMANAGER, "--config.file=alertmanager.yaml", f"--web.listen-address=127.0.0.1:{port}", *more]
        )

    def _start_prometheus(self, alerting: int) -> "subprocess.Popen[bytes]":
        for name in dashboards.RULES:
            (self.folder / name).write_text(quicker((dashboards.HERE / name).read_text()))
        config = yaml.safe_load((dashboards.HERE / "prometheus.yaml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        del config["scrape_configs"][0]["static_configs"]
        config["scrape_configs"][0]["file_sd_configs"] = [{"files": ["targets.json"], "refresh_interval": "1s"}]
        config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{alerting}"]
        (self.folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        listen = f"--web.listen-address={self.url.removeprefix('http://')}"
        program = self._run(["prometheus", "--config.file=prometheus.yaml", "--storage.tsdb.path=data", listen])
        wait(lambda: _answers(f"{self.url}/-/ready"), "Prometheus is ready")
        return program

    def _run(self, command: list[str]) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{Path(command[0]).name}.log").open("wb") as log:
            return subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)


def wait(happened: Callable[[], bool], what: str) -> None:
    """Until `happened`, for PATIENCE_S at most."""
    end = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < end, f"not in {PATIENCE_S:g} s: {what}"
        time.sleep(0.1)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False
