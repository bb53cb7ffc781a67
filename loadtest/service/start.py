"""Cold starts of the service and of stock `vllm serve` with the same model and adapters, by turns, over some rounds.

python -m loadtest.service.start [--rounds 5] [--model models/tiny-llava-int4]

Prints for each start the seconds until it is ready and the CPU seconds of all its processes, then the medians with
their spread; of the service also how long it takes until it is ready again after a kill -9 of vLLM's core.

In the image, where both come from its packages (nothing else of this repository is taken than this folder):

    podman run --rm --read-only --tmpfs /tmp --tmpfs /cache:mode=1777 --shm-size 512m --cap-drop all \
        -v ./loadtest:/opt/app/loadtest:ro --entrypoint python IMAGE -m loadtest.service.start \
        --model /srv/models/tiny-llava-int4 --adapters /srv/models/adapters
"""

import argparse
import os
import signal
import socket
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from loadtest.servers import Server, answers, cpu_s, ours, stock


@dataclass(frozen=True)
class Start:
    """What one start took, in seconds."""

    ready_s: float
    cpu_s: float

    @classmethod
    def of(cls, server: Server) -> "Start":
        """The times of the start of a server that has just become ready."""
        return cls(server.ready_s, cpu_s(server.pids()))


def main(arguments: list[str]) -> None:
    """Start both by turns, and print."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.service.start", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="starts of each")
    parser.add_argument("--model", default="models/tiny-llava-int4", help="checkpoint of both")
    parser.add_argument("--adapters", default="models/adapters", help="adapter store; stock gets its stable versions")
    parser.add_argument("--port", type=int, default=_free_port(), help="port of both, in turn [one that is free]")
    given = parser.parse_args(arguments)
    mine, theirs, back = list[Start](), list[Start](), list[float]()
    with TemporaryDirectory() as folder:
        for number in range(given.rounds):
            with ours(given.port, given.model, given.adapters) as server:
                mine.append(Start.of(server))
                back.append(_killed(server, f"http://127.0.0.1:{given.port}/readyz"))
            with stock(given.port, given.model, given.adapters, Path(folder), "--max-loras", "4") as server:
                theirs.append(Start.of(server))
            print(
                f"round {number + 1}: service {_told(mine[-1])}, back {back[-1]:.1f} s; vllm serve {_told(theirs[-1])}"
            )
    for name, field in (("seconds to ready", "ready_s"), ("CPU seconds", "cpu_s")):
        service, stock_ = [getattr(each, field) for each in mine], [getattr(each, field) for each in theirs]
        ratio = statistics.median(service) / statistics.median(stock_)
        print(f"{name}: service {_spread(service)}, vllm serve {_spread(stock_)}, ratio of medians {ratio:.2f}")
    share = statistics.median(back) / statistics.median(each.ready_s for each in mine)
    print(f"engine killed, ready again after {_spread(back)} s: {share:.2f} of a cold start")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _killed(server: Server, url: str) -> float:
    """Seconds from a kill -9 of vLLM's core until the service is ready again."""
    (core,) = (pid for pid in server.pids() if b"EngineCore" in Path(f"/proc/{pid}/cmdline").read_bytes())
    began = time.monotonic()
    os.kill(core, signal.SIGKILL)
    while answers(url):
        time.sleep(0.01)
    while not answers(url):
        time.sleep(0.05)
    return time.monotonic() - began


def _told(start: Start) -> str:
    return f"{start.ready_s:.1f} s ({start.cpu_s:.1f} CPU)"


def _spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})"


if __name__ == "__main__":
    main(sys.argv[1:])
