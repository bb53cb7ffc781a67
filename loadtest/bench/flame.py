"""`make bench-flame`: a flame graph of the gateway at 200 requests a second, on the engine that takes no time.

py-spy samples the service's stacks from outside, 250 times a second. Threads that wait for work show as `_worker`.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from loadtest import faces, pictures
from loadtest.bench.gateway import RATE, fake
from loadtest.client import Due, send_all


def main(arguments: list[str]) -> int:
    """Ask, record, and write the picture; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.flame", description=__doc__.splitlines()[0])
    parser.add_argument("--py-spy", type=Path, default=Path("build/py-spy/bin/py-spy"), help="py-spy's command")
    parser.add_argument("--seconds", type=int, default=20, help="how long")
    parser.add_argument("--output", type=Path, default=Path("build/gateway.svg"), help="where the picture goes")
    parser.add_argument("--port", type=int, default=8460, help="port of the service started")
    given = parser.parse_args(arguments)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    with fake(given.port) as service:
        url = f"http://127.0.0.1:{given.port}"
        send_all(url, _due(0, 2))
        command = [str(given.py_spy), "record", "--output", str(given.output), "--duration", str(given.seconds)]
        recording = subprocess.Popen([*command, "--rate", "250", "--pid", str(service.process.pid)])
        send_all(url, _due(10_000, given.seconds + 1))
        return recording.wait()


def _due(first: int, seconds: int) -> list[Due]:
    return [
        Due(number / RATE, "", faces.vqa(pictures.small(first + number), "shapes", f"what is on page {number}?")[0])
        for number in range(round(RATE * seconds))
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
