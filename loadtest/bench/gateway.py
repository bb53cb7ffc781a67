"""The gateway's own time for a request, on an engine that takes none, beside a constant answer by the same framework.

Requests are sent at a constant rate to our service on the fake engine, and to a FastAPI app under uvicorn that reads
the same body and answers with a constant. The time of framework, socket and client is in both.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from loadtest import faces, pictures
from loadtest.bench.cases import Goal
from loadtest.bench.results import Figures, bounded, line, reached
from loadtest.client import Due, percentile, send_all
from loadtest.servers import Server, cpu_s

NAME, RATE = "gateway", 200.0
_ABSOLUTE = (("p50_ms", 2.0), ("p99_ms", 10.0))


def measure(rounds: int, seconds: float, port: int) -> dict[str, Any]:
    """Measure `rounds` rounds of `seconds` each; returns a line as of other cases, with goals for JSON and forms."""
    found = list[dict[str, Figures]]()
    with _both(port) as urls:
        for number in range(rounds + 1):
            figures = {
                f"{server}, {form}": _measured(url, pids, make, number, seconds)
                for form, make in (("json", _json), ("form", _form))
                for server, (url, pids) in urls.items()
            }
            if number:  # round 0 only warms the servers
                found.append(figures)
    goals = [
        reached(Goal(f"manylens, {form}", f"constant, {form}", figure), found)
        for form in ("json", "form")
        for figure in ("p50_ms", "p99_ms")
    ]
    goals += [
        bounded(side, "1 ms", figure, [each[side][figure] for each in found], most=most)
        for side in ("manylens, json", "manylens, form")
        for figure, most in _ABSOLUTE
    ]
    return line(NAME, found, goals, requests_per_second=RATE, rounds=rounds, seconds=seconds)


def fake(port: int) -> Server:
    """Our service on the engine that takes no time."""
    command = [sys.executable, "-m", "loadtest.service.fake_service", "--port", str(port), "--lame-duck-s", "0"]
    return Server(command, f"http://127.0.0.1:{port}/readyz")


@contextmanager
def _both(port: int) -> Iterator[dict[str, tuple[str, Callable[[], list[int]]]]]:
    command = [sys.executable, "-m", "loadtest.bench.constant", "--port", str(port + 1)]
    constant = f"http://127.0.0.1:{port + 1}"
    with fake(port) as service, Server(command, f"{constant}/health") as peer:
        yield {"manylens": (f"http://127.0.0.1:{port}", service.pids), "constant": (constant, peer.pids)}


def _measured(
    url: str, pids: Callable[[], list[int]], make: Callable[[int], bytes], round_number: int, seconds: float
) -> Figures:
    """What one server took in one round of RATE requests a second; each request is made from a number of its own."""
    count = round(RATE * seconds)
    due = [Due(number / RATE, "", make(round_number * count + number)) for number in range(count)]
    processes = pids()
    before = cpu_s(processes)
    sent = send_all(url, due)
    used = cpu_s(processes) - before
    took = sorted(1000 * each.seconds for each in sent)
    return {
        **{f"p{percent}_ms": round(percentile(took, percent), 2) for percent in (50, 95, 99)},
        "cpu_ms": round(1000 * used / count, 2),
        "errors": sum(each.status != 200 for each in sent),
    }


def _json(number: int) -> bytes:
    return faces.vqa(pictures.small(number), "shapes", f"what is on page {number}?")[0]


def _form(number: int) -> bytes:
    return faces.form(pictures.small(number), "shapes", f"what is on page {number}?")[0]
