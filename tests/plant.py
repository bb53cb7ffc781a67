"""Two services on the real engine that tests/test_faults.py hurts, those who ask them meanwhile, and what it takes.

One service runs as it would run anywhere; the other in a box (a mount namespace) with a small /dev/shm, a small cache,
a small disk for what it keeps, a name server of its own, and a clock that can be set (libfaketime).
"""

import asyncio
import contextlib
import socket
import statistics
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from service.adapters.store import Store
from tests.conftest import ROOT, png
from tests.scorecard import Scorecard
from tests.test_http_edge import QUESTION, data_url
from tests.test_start_on_vllm import Service, named

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
CANARY_S, DEADLINE_S, POLL_S = 3.0, 8.0, 2.0
IN_FLIGHT, WAITING = 32, 64
OPTIONS = (
    "--in-flight", str(IN_FLIGHT), "--waiting", str(WAITING), "--adapters-poll-s", str(POLL_S),
    "--engine-canary-s", str(CANARY_S), "--engine-canary-deadline-s", str(DEADLINE_S), "--log-level", "warning",
    # Its memory is taken when a block is first used, a gigabyte in all by default: these are all used soon.
    "--engine-args", '{"num_gpu_blocks_override": 300}',
)  # fmt: skip
WHO = (None, "shapes", "digits")
# A name server that hears every question and answers none.
SILENT = "127.0.0.53"
FAR = "http://pictures.example.com/a.png"


@dataclass
class Plant:
    """Both services, what they share, and the scorecard. `cold_s` is what the first took to be ready."""

    folder: Path
    store: Store
    link: Path
    box: Path
    services: list[Service]
    cold_s: float = 0.0
    right: dict[str | None, str] = field(default_factory=dict)
    card: Scorecard = field(init=False)

    def __post_init__(self) -> None:
        self.card = Scorecard(ROOT / "build/faults.json", self.strays)

    @property
    def one(self) -> Service:
        return self.services[0]

    @property
    def two(self) -> Service:
        """The service in the box."""
        return self.services[1]

    def start(self, *options: str, within: Sequence[str] = (), variables: dict[str, str] | None = None) -> Service:
        number = len(self.services)
        cache = () if "--adapters-cache" in options else ("--adapters-cache", str(self.folder / f"cache-{number}"))
        log = self.folder / f"log-{number}"
        service = Service(log, *OPTIONS, *cache, *options, within=within, variables=variables or {})
        self.services.append(service)
        return service

    def strays(self) -> int:
        """Processes that should not be there: of services that ended, and more engines or workers than services."""
        end = time.monotonic() + 30
        while (count := self._strays()) and time.monotonic() < end:
            time.sleep(0.1)
        return count

    def _strays(self) -> int:
        count = 0
        for service in self.services:
            left = service.left()
            if service.process.poll() is not None:
                count += len(left)
                continue
            kinds: Counter[str] = Counter()
            for pid in left:
                with contextlib.suppress(OSError):
                    kinds[next((kind for kind in ("EngineCore", "Worker") if named(pid, kind)), "other")] += 1
            # Others are the gateway, the process that engines are forked from, and multiprocessing's tracker.
            count += sum(max(0, kinds[kind] - most) for kind, most in (("EngineCore", 1), ("Worker", 1), ("other", 3)))
        return count

    def in_the_box(self, path: Path) -> Path:
        """A path as the service in the box sees it."""
        return Path(f"/proc/{self.two.process.pid}/root{path}")


def asked(service: Service, who: str | None = None, **fields: Any) -> httpx.Response:
    return httpx.post(f"{service.url}/v1/vqa", json=question(who) | fields, timeout=60)


def question(who: str | None) -> dict[str, Any]:
    return {"question": QUESTION, "image": IMAGE, "adapter": who}


IMAGE = data_url(png())


@dataclass(frozen=True)
class Heard:
    """One answer: when it was asked for, on the monotonic clock, how long it took, what it was; status 0 is none."""

    at: float
    seconds: float
    status: int
    right: bool


class Crowd:
    """Clients that ask again and again over connections that they keep; a refused one waits a tenth of a second."""

    def __init__(self, plant: Plant, url: str, clients: int = 6) -> None:
        self.plant, self.url, self.clients = plant, url, clients
        self.heard: list[Heard] = []
        self._over = False

    async def __aenter__(self) -> "Crowd":
        self._tasks = [asyncio.create_task(self._ask_on(WHO[each % len(WHO)])) for each in range(self.clients)]
        await asyncio.sleep(1)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over = True
        await asyncio.gather(*self._tasks)

    def wrong(self, *statuses: int) -> int:
        """Answers of other statuses than these, without Retry-After where they are 503, or with a wrong text."""
        return sum(not each.right or each.status not in statuses for each in self.heard)

    @property
    def share_answered(self) -> float:
        return statistics.mean(each.status == 200 for each in self.heard)

    async def _ask_on(self, who: str | None) -> None:
        async with httpx.AsyncClient(timeout=60) as client:
            while not self._over:
                began = time.monotonic()
                status, right = 0, False
                with contextlib.suppress(httpx.TransportError):
                    response = await client.post(f"{self.url}/v1/vqa", json=question(who))
                    status = response.status_code
                    right = (
                        response.json()["answer"] == self.plant.right[who]
                        if status == 200
                        else "retry-after" in response.headers
                    )
                self.heard.append(Heard(began, time.monotonic() - began, status, right))
                await asyncio.sleep(0 if status == 200 else 0.1)


async def until(happened: Callable[[], Awaitable[bool]], within_s: float = 300.0) -> float:
    """Seconds until `happened`."""
    began = time.monotonic()
    async with asyncio.timeout(within_s):
        while not await happened():  # noqa: ASYNC110 - it is asked over HTTP
            await asyncio.sleep(0.02)
    return time.monotonic() - began


async def status(service: Service, path: str = "/readyz", **body: Any) -> int:
    """Of a new connection; 0 where there was no answer."""
    async with httpx.AsyncClient(timeout=60) as client:
        with contextlib.suppress(httpx.TransportError):
            asking = client.post(f"{service.url}{path}", json=body) if body else client.get(f"{service.url}{path}")
            return (await asking).status_code
    return 0


async def until_status(service: Service, expected: int) -> float:
    async def is_so() -> bool:
        return await status(service) == expected

    return await until(is_so)


def metric(service: Service, name: str, but: str | None = None) -> float:
    """The sum of a series over its labels, but for those with `but` among them."""
    lines = httpx.get(f"{service.url}/metrics", timeout=60).text.splitlines()
    found = [line for line in lines if line.startswith((f"{name} ", f"{name}{{")) and (not but or but not in line)]
    return sum(float(line.split()[-1]) for line in found)


@contextlib.asynccontextmanager
async def trickling(service: Service, count: int) -> AsyncGenerator[None, None]:
    """So many clients that send a byte of a question now and then, and come again when they are closed."""

    async def trickle() -> None:
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", service.port)
                try:
                    writer.write(b"POST /v1/vqa HTTP/1.1\r\nhost: here\r\ncontent-length: 1000\r\n\r\n")
                    while not writer.is_closing():
                        writer.write(b" ")
                        await writer.drain()
                        await asyncio.sleep(1)
                finally:
                    writer.close()

    tasks = [asyncio.create_task(trickle()) for _ in range(count)]
    await asyncio.sleep(1)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def memory_mb(service: Service) -> float:
    total = 0
    for pid in service.left():
        with contextlib.suppress(OSError):
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
    return total * 1024 / 1e6


def line_through(x: "np.ndarray[Any, Any]", y: "np.ndarray[Any, Any]") -> tuple[float, float]:
    """The slope of the least-squares line, and its standard error."""
    slope, start = np.polyfit(x, y, 1)
    residuals = y - (slope * x + start)
    alike = max(0.0, float(np.corrcoef(residuals[:-1], residuals[1:])[0, 1]))
    independent = max(3.0, len(x) * (1 - alike) / (1 + alike))
    error = np.sqrt((residuals**2).sum() / (independent - 2) / ((x - x.mean()) ** 2).sum() * len(x) / len(x))
    return float(slope), float(error)


def start_in_the_box(plant: Plant) -> Service:
    box = plant.box
    (box / "resolv.conf").write_text(f"nameserver {SILENT}\n")
    (box / "clock").write_text("+0")
    mounts = " && ".join(
        (
            f"mount -t tmpfs -o size=16m none {box}/kept",
            f"mount -t tmpfs -o size=64m none {box}/cache",
            "mount -t tmpfs -o size=640m none /dev/shm",
            f"mount --bind {box}/resolv.conf /etc/resolv.conf",
        )
    )
    caches = {"HOME": "", "XDG_CACHE_HOME": "xdg", "VLLM_CACHE_ROOT": "vllm", "TORCHINDUCTOR_CACHE_DIR": "inductor"}
    clock = {"FAKETIME_TIMESTAMP_FILE": str(box / "clock"), "FAKETIME_CACHE_DURATION": "1"}
    clock |= {"LD_PRELOAD": str(FAKETIME), "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    return plant.start(
        *("--adapters", str(plant.folder / "away"), "--capture", str(box / "kept/data")),
        *("--adapters-cache", str(box / "cache/adapters")),
        within=("unshare", "-m", "sh", "-c", f'{mounts} && exec "$@"', "box"),
        variables={name: str(box / "cache" / where) for name, where in caches.items()} | clock,
    )


@contextlib.contextmanager
def silent_names() -> Iterator[None]:
    """The name server of the service in the box is there inside the block, and answers nothing."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as silent:
        silent.bind((SILENT, 53))
        yield


@contextlib.contextmanager
def filled(folder: Path) -> Iterator[None]:
    """The file system there has no byte left inside the block."""
    filler = folder / "filler"
    try:
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
        yield
    finally:
        filler.unlink()
