"""The service as `python -m service` starts it, on vLLM: what it says, and what is left of it however it ends."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import httpx
import pytest

from tests.balancers import free_port
from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STOPPED_S = 30.0
MARK = "MANYLENS_TEST_START"
# vLLM's processes give themselves titles, which setproctitle writes over their environment unless it is told not to.
KEPT = {"SPT_NOENV": "1"}


class Service:
    """One process, the port it listens on, and all it starts, known by a variable that they inherit."""

    def __init__(
        self,
        log: Path,
        *options: str,
        within: Sequence[str] = (),
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`within` is a command that runs the service in its place, as `unshare -m`; `variables` are its own."""
        self.mark, self.port, self.log = uuid.uuid4().hex, free_port(), log
        self.url = f"http://127.0.0.1:{self.port}"
        command = [*within, sys.executable, "-m", "service", "--port", str(self.port), "--lame-duck-s", "0", *options]
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=out, cwd=ROOT, env=os.environ | variables | {MARK: self.mark} | KEPT
            )

    def left(self) -> list[int]:
        """The processes of this service that live."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                zombie = (folder / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
                if f"{MARK}={self.mark}".encode() in (folder / "environ").read_bytes() and not zombie:
                    found.append(int(folder.name))
        return found

    def engines(self) -> list[int]:
        """Its engine processes: one, but for moments in which one goes and another comes."""
        found = []
        for pid in self.left():
            with contextlib.suppress(OSError):  # it has just ended
                if named(pid, "EngineCore"):
                    found.append(pid)
        return found

    def until_said(self, words: str) -> None:
        self._until(lambda: words in self.log.read_text())

    def until_ready(self) -> None:
        def ready() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(f"{self.url}/readyz").is_success
            return False

        self._until(ready)

    def _until(self, happened: Callable[[], bool]) -> None:
        end = time.monotonic() + 400
        while not happened():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)

    def assert_nothing_left(self) -> None:
        end = time.monotonic() + STOPPED_S
        while (left := self.left()) and time.monotonic() < end:
            time.sleep(0.1)
        assert not left, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


MOMENTS = (
    ("importing torch and vLLM", 0.5),
    ("starting the engine", 0.0),
    ("starting the engine", 1.5),
    ("starting the engine", 3.0),
    ("ready: base", 0.0),
)


@pytest.mark.parametrize(("words", "after_s"), MOMENTS)
def test_sigterm_at_any_moment_of_a_start_is_status_0_and_leaves_no_process(
    log: Path, words: str, after_s: float
) -> None:
    service = Service(log)
    service.until_said(words)
    time.sleep(after_s)
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(STOPPED_S) == 0, log.read_text()
    assert "Exception ignored" not in log.read_text()
    service.assert_nothing_left()


def test_kill_9_of_the_service_leaves_no_process(log: Path) -> None:
    service = Service(log)
    service.until_said("starting the engine")
    time.sleep(2)
    service.process.kill()
    service.process.wait()
    service.assert_nothing_left()


def test_sigterm_to_all_processes_of_a_service_leaves_none(log: Path) -> None:
    service = Service(log)
    service.until_ready()
    for pid in service.left():
        os.kill(pid, signal.SIGTERM)
    assert service.process.wait(STOPPED_S) == 0, log.read_text()
    service.assert_nothing_left()


def test_a_killed_fork_server_takes_the_engine_with_it_and_another_engine_comes(log: Path) -> None:
    service = Service(log)
    service.until_ready()
    before = {pid for pid in service.left() if pid != service.process.pid}
    forked = next(pid for pid in before if parent(pid) == service.process.pid and named(pid, "service"))
    os.kill(forked, signal.SIGKILL)
    service.until_said("was killed")
    service.until_ready()
    assert not {pid for pid in before & {*service.left()} if named(pid, "VLLM")}
    body = {"question": "what is it?"}
    assert httpx.post(f"http://127.0.0.1:{service.port}/v1/vqa", json=body, timeout=60).is_success
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(STOPPED_S) == 0, log.read_text()
    service.assert_nothing_left()


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def named(pid: int, name: str) -> bool:
    return name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_start_says_what_it_does_and_every_line_is_json_where_that_is_asked_for(log: Path) -> None:
    service = Service(log, "--log-format", "json", "--log-level", "debug")
    service.until_ready()
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(STOPPED_S) == 0
    told = [json.loads(line)["message"] for line in log.read_text().splitlines()]
    for phase in (
        "importing torch and vLLM",
        "imported in",
        "starting the engine",
        "reading the adapter store",
        "ready: base",
    ):
        assert any(phase in message for message in told), phase


def test_an_engine_that_does_not_start_is_one_sentence_and_status_1(log: Path) -> None:
    service = Service(log, "--engine-args", '{"num_gpu_blocks_override": 1}')  # too few for one question
    assert service.process.wait(400) == 1, log.read_text()
    text = log.read_text()
    assert "Traceback" not in text
    assert sum(" ERROR " in line for line in text.splitlines()) == 1, text
    service.assert_nothing_left()
