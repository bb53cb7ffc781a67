"""A cold start of the service beside stock `vllm serve` with the same model and adapters, in turn, round after round.

python -m loadtest.start [--rounds 5] [--model models/tiny-llava-int4]

Prints for each start the seconds until it is ready and the CPU seconds of all its processes, then the medians with
their spread; of the service also how long it takes until it is ready again after a kill -9 of vLLM's core.

In the image, where both come from its packages (nothing else of this repository is taken than this folder):

    podman run --rm --read-only --tmpfs /tmp --tmpfs /cache:mode=1777 --shm-size 512m --cap-drop all \
        -v ./loadtest:/opt/app/loadtest:ro --entrypoint python IMAGE -m loadtest.start \
        --model /srv/models/tiny-llava-int4 --adapters /srv/models/adapters
"""

import argparse
import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

import httpx

from service.adapters.store import Store

MARK = "MANYLENS_BENCH_START"
# Of what a start that failed has said, so much is told.
_TOLD_BYTES = 4000
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Start:
    """What one start took, in seconds."""

    ready_s: float
    cpu_s: float


def main(arguments: list[str]) -> None:
    """Start both, in turn."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.start", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="starts of each")
    parser.add_argument("--model", default="models/tiny-llava-int4", help="checkpoint of both")
    parser.add_argument("--adapters", default="models/adapters", help="adapter store; stock gets its stable versions")
    parser.add_argument("--port", type=int, default=_free_port(), help="port of both, in turn [one that is free]")
    given = parser.parse_args(arguments)
    ours, stock, back = list[Start](), list[Start](), list[float]()
    with TemporaryDirectory() as directory:
        peer = _stock(given.model, given.adapters, given.port)
        environment = _as_package(Path(directory))
        for number in range(given.rounds):
            command = [sys.executable, "-m", "service", "--model", given.model, "--adapters", given.adapters]
            command += ["--port", str(given.port), "--lame-duck-s", "0"]
            with _started(command, f"http://127.0.0.1:{given.port}/readyz") as (start, mark):
                ours.append(start)
                back.append(_killed(mark, f"http://127.0.0.1:{given.port}/readyz"))
            with _started(peer, f"http://127.0.0.1:{given.port}/health", environment) as (start, _):
                stock.append(start)
            print(
                f"round {number + 1}: service {_told(ours[-1])}, back {back[-1]:.1f} s; vllm serve {_told(stock[-1])}"
            )
    for name, field in (("seconds to ready", "ready_s"), ("CPU seconds", "cpu_s")):
        mine, theirs = [getattr(each, field) for each in ours], [getattr(each, field) for each in stock]
        ratio = statistics.median(mine) / statistics.median(theirs)
        print(f"{name}: service {_spread(mine)}, vllm serve {_spread(theirs)}, ratio of medians {ratio:.2f}")
    share = statistics.median(back) / statistics.median(each.ready_s for each in ours)
    print(f"engine killed, ready again after {_spread(back)} s: {share:.2f} of a cold start")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _stock(model: str, adapters: str, port: int) -> list[str]:
    store = Store(adapters)
    modules = [f"{name}={store.stable(name).path}" for name in store.names()]
    return [
        *(sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", model, "--port", str(port), "--enable-lora"),
        *("--max-loras", "4", "--max-lora-rank", "64", "--max-num-seqs", "64", "--lora-modules", *modules),
    ]


def _as_package(directory: Path) -> dict[str, str]:
    """An environment in which vLLM's command finds itself: the CPU wheel goes by another name.

    What PYTHONPATH holds already stays: in the image it is how torch finds service/torchvision_on_cpu.py, without which
    vLLM's command does not start there.
    """
    info = directory / "vllm-0.32.0+cpu.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n")
    path = os.pathsep.join(filter(None, (str(directory), os.environ.get("PYTHONPATH"))))
    return {"PYTHONPATH": path, "VLLM_CPU_KVCACHE_SPACE": "1"}


@contextmanager
def _started(command: list[str], url: str, environment: dict[str, str] | None = None) -> Iterator[tuple[Start, str]]:
    """What its start took, once `url` is 200, and the mark of its processes; it is stopped afterwards."""
    mark, began = uuid.uuid4().hex, time.monotonic()
    # vLLM's processes give themselves titles, which setproctitle writes over their environment unless told not to.
    variables = os.environ | (environment or {}) | {MARK: mark, "SPT_NOENV": "1"}
    with (
        TemporaryFile() as said,
        subprocess.Popen(command, env=variables, stdout=said, stderr=said) as process,
    ):
        try:
            while not _ready(url):
                if process.poll() is not None:
                    said.seek(max(0, said.tell() - _TOLD_BYTES))
                    told = said.read().decode(errors="replace")
                    raise SystemExit(f"{told}\n{' '.join(command)} ended with status {process.returncode}")
                time.sleep(0.05)
            yield Start(time.monotonic() - began, _cpu_s(mark)), mark
        finally:
            process.terminate()
            process.wait(60)


def _killed(mark: str, url: str) -> float:
    """Seconds from a kill -9 of vLLM's core until the service is ready again."""
    (core,) = (folder for folder in _processes(mark) if b"EngineCore" in (folder / "cmdline").read_bytes())
    began = time.monotonic()
    os.kill(int(core.name), signal.SIGKILL)
    while _ready(url):
        time.sleep(0.01)
    while not _ready(url):
        time.sleep(0.05)
    return time.monotonic() - began


def _processes(mark: str) -> list[Path]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                found.append(folder)
    return found


def _cpu_s(mark: str) -> float:
    """CPU seconds of these processes, and of the children they have waited for."""
    total = 0
    for folder in _processes(mark):
        with contextlib.suppress(OSError):
            total += sum(map(int, (folder / "stat").read_text().rpartition(")")[2].split()[11:15]))
    return total / _TICKS


def _ready(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.TransportError:
        return False


def _told(start: Start) -> str:
    return f"{start.ready_s:.1f} s ({start.cpu_s:.1f} CPU)"


def _spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})"


if __name__ == "__main__":
    main(sys.argv[1:])
