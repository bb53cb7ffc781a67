"""`make bench-hostile`: hostile bodies, four at a time, while another client asks small questions.

Each body is sent 200 times or more, for ten seconds or more, so that there are enough questions for a percentile.

The service is as `make serve` starts it, on the real engine. The bodies are sent by a process of the lowest priority,
so that sending takes little of the service's CPU: real senders would be on other machines. First comes a quiet time;
then for each body is measured how long the other client's questions take, against the quiet time, how long `/healthz`
takes, and how much memory is still in use afterwards. Prints a table, writes JSON lines to --out, and ends with status
1 where a bound was broken.
"""

import base64
import http.client
import io
import itertools
import json
import multiprocessing
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path

import httpx
from PIL import Image
from pydantic import Field
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict

from loadtest.client import percentile
from loadtest.process import serving

# The bounds: times the quiet p99 of questions, seconds of /healthz, and MB of memory left in use.
_TIMES_QUIET, _HEALTH_S, _MEMORY_MB = 3.0, 0.1, 100.0
_SIDE = 7000  # of large pictures: 49 million pixels, just under what is decoded


class Bench(BaseSettings):
    """Send bodies made to hurt, and see what becomes of another client, of the probe and of memory."""

    model_config = SettingsConfigDict(
        frozen=True, env_prefix="MANYLENS_", cli_kebab_case=True, cli_prog_name="python -m loadtest.service.hostile"
    )

    count: int = Field(200, gt=0, description="requests with each body, at least")
    hurt_s: float = Field(10.0, gt=0, description="seconds for which each body is sent, at least")
    at_once: int = Field(4, gt=0, description="of them at a time")
    quiet_s: float = Field(15.0, gt=0, description="seconds of the quiet time before")
    bodies: str = Field("", description="only bodies whose name has this in it")
    out: Path = Field(Path("build/hostile.jsonl"), description="file of JSON lines")
    port: int = Field(8197, description="port of the service started")


@dataclass(frozen=True)
class Body:
    """A hostile body: the path it is sent to, its bytes, and headers beside its content-type."""

    path: str
    content: bytes
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class OthersLatency:
    """Seconds that another client's questions and probes take; `failed` counts answers other than 200."""

    questions: list[float] = field(default_factory=list)
    probes: list[float] = field(default_factory=list)
    failed: int = 0


def main(arguments: list[str]) -> int:
    """Measure, print and write; returns the exit status."""
    options = CliApp.run(Bench, cli_args=arguments)
    chosen = {name: make for name, make in BODIES.items() if options.bodies in name}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    broken = 0
    with serving("service", options.port, "--log-level", "error") as url, options.out.open("w") as out:
        with _watching(url) as warm:
            time.sleep(min(5.0, options.quiet_s))
        del warm
        with _watching(url) as quiet:
            time.sleep(options.quiet_s)
        usual = percentile(sorted(quiet.questions), 99)
        print(f"quiet: p99 of {len(quiet.questions)} small questions {1000 * usual:.0f} ms, ", end="")
        print(f"/healthz at most {1000 * max(quiet.probes):.0f} ms")
        print(
            "| body | bytes | answers | seconds | p99, ms | times quiet | /healthz at most, ms | memory left, MB |  |"
        )
        print("|---|---:|---|---:|---:|---:|---:|---:|---|")
        for name, make in chosen.items():
            line = _measure(url, make(), options, usual)
            broken += not line["held"]
            out.write(
                json.dumps({"bench": "hostile", "body": name, "quiet_p99_ms": round(1000 * usual, 1), **line}) + "\n"
            )
            print("|", " | ".join(map(str, (name, *line.values()))), "|", flush=True)
    return 1 if broken else 0


def _measure(url: str, body: Body, options: Bench, usual: float) -> dict[str, object]:
    context = multiprocessing.get_context("spawn")
    answers, begin = context.Queue(), context.Event()
    hurting = context.Process(target=_hurt, args=(url, body, options, answers, begin))
    hurting.start()
    answers.get()  # the process has imported its modules, which takes CPU too
    before, began = _memory_mb(url), time.perf_counter()
    with _watching(url) as seen:
        begin.set()
        told: Counter[int] = answers.get()
    took = time.perf_counter() - began
    hurting.join()
    p99, health = percentile(sorted(seen.questions), 99), max(seen.probes)
    left = _settled_mb(url, before)
    held = p99 <= _TIMES_QUIET * usual and health <= _HEALTH_S and left <= _MEMORY_MB and not seen.failed
    return {
        "bytes": len(body.content),
        "answers": " ".join(f"{status}:{count}" for status, count in sorted(told.items())),
        "seconds": round(took, 1),
        "p99_ms": round(1000 * p99),
        "times_quiet": round(p99 / usual, 2),
        "health_max_ms": round(1000 * health),
        "memory_left_mb": round(left),
        "held": held,
    }


@contextmanager
def _watching(url: str) -> Iterator[OthersLatency]:
    """Ask small questions and /healthz over and over while the block runs; yields their latencies."""
    seen, over = OthersLatency(), threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            number = 0
            while not over.is_set() or not seen.questions:
                number += 1
                body = {"question": f"what is on page {number}?", "adapter": "shapes", "image": _SMALL, "max_tokens": 4}
                began = time.perf_counter()
                seen.failed += client.post("/v1/vqa", json=body).status_code != 200
                seen.questions.append(time.perf_counter() - began)
                over.wait(0.05)

    def probe() -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            while not over.is_set() or not seen.probes:
                began = time.perf_counter()
                seen.failed += client.get("/healthz").status_code != 200
                seen.probes.append(time.perf_counter() - began)
                over.wait(0.05)

    threads = [threading.Thread(target=each) for each in (ask, probe)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _hurt(url: str, body: Body, options: Bench, answers: "Queue[Counter[int]]", begin: Event) -> None:
    """Send a body as often as `options` say; puts the number of answers by status (0: none came) into `answers`."""
    os.nice(19)
    told, sent, lock = Counter[int](), itertools.count(), threading.Lock()
    answers.put(Counter())
    begin.wait()
    until = time.monotonic() + options.hurt_s

    def send() -> None:
        parts = httpx.URL(url)
        while True:
            with lock:
                if next(sent) >= options.count and time.monotonic() > until:
                    return
            connection = http.client.HTTPConnection(parts.host, parts.port, timeout=120)
            try:
                headers = {"content-type": "application/json", "connection": "close", **body.headers}
                connection.request("POST", body.path, body.content, headers)
                answer = connection.getresponse()
                answer.read()
                status = answer.status
            except (OSError, http.client.HTTPException):
                status = 0
            finally:
                connection.close()
            with lock:
                told[status] += 1

    threads = [threading.Thread(target=send) for _ in range(options.at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers.put(told)


def _memory_mb(url: str) -> float:
    """Resident memory of the gateway's process, in MB of a million bytes."""
    lines = httpx.get(f"{url}/metrics", timeout=60).text.splitlines()
    return next(float(line.split()[1]) / 1e6 for line in lines if line.startswith("process_resident_memory_bytes "))


def _settled_mb(url: str, before: float) -> float:
    """MB of memory in use beyond `before`, once that is under half the bound, or after ten seconds."""
    for _ in range(20):
        if (left := _memory_mb(url) - before) <= _MEMORY_MB / 2:
            break
        time.sleep(0.5)
    return left


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _asked(image: bytes, **fields: object) -> bytes:
    return json.dumps({"question": "what?", "image": base64.b64encode(image).decode(), **fields}).encode()


def _many_scans() -> bytes:
    """A progressive JPEG that repeats its last scan: for each the decoder goes through all of its blocks."""
    data = _encoded(Image.new("RGB", (4000, 4000), "teal"), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    scan = data[start:-2]
    return data[:-2] + scan * max(1, (231_000 - len(data)) // len(scan)) + data[-2:]


def _batch(each: int) -> bytes:
    return json.dumps({"questions": ["?"] * each, "adapters": ["shapes"] * each}).encode()


_SMALL = base64.b64encode(_encoded(Image.radial_gradient("L").resize((64, 64)).convert("RGB"), "PNG")).decode()
_CHOICES = [f"thing {number}" for number in range(20)]
BODIES: dict[str, Callable[[], Body]] = {
    "batch of 300 by 300": lambda: Body("/v1/vqa/batch", _batch(300)),
    "batch of 1,000 by 1,000": lambda: Body("/v1/vqa/batch", _batch(1000)),
    "a million bytes of 1s": lambda: Body("/v1/vqa/batch", b'{"questions":[' + b"1," * 500_000 + b"1]}"),
    "1s for a chat": lambda: Body("/v1/chat/completions", b'{"messages":[' + b"1," * 500_000 + b"1]}"),
    "20 MB of lists": lambda: Body("/v1/vqa", b"[" + b"[]," * 6_600_000 + b"1]"),
    "unknown fields": lambda: Body("/v1/vqa", json.dumps({f"k{number}": 1 for number in range(90_000)}).encode()),
    "20 MB that is no image": lambda: Body("/v1/vqa", b'{"question":"x","image":"' + b"A" * 19_900_000 + b'"}'),
    "3 MB to nowhere": lambda: Body("/nope", b"x" * 3_000_000),
    "21 MB": lambda: Body("/v1/vqa", b"x" * 21_000_000),
    "progressive JPEG of many scans": lambda: Body("/v1/vqa", _asked(_many_scans())),
    "RGBA PNG bomb": lambda: Body("/v1/vqa", _asked(_encoded(Image.new("RGBA", (_SIDE, _SIDE)), "PNG"))),
    "JPEG whose deadline is short": lambda: Body(
        "/v1/vqa", _asked(_encoded(Image.new("RGB", (_SIDE, _SIDE), "teal"), "JPEG", quality=30), deadline_s=0.2)
    ),
    "a URL of this machine": lambda: Body("/v1/vqa", b'{"question":"x","image":"http://127.0.0.1:1/"}'),
    "choices": lambda: Body("/v1/vqa", json.dumps({"question": "x", "choices": _CHOICES}).encode()),
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
