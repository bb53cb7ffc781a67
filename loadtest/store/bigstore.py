"""`make bench-store`: what ten thousand adapters in the store cost beside two; a JSON line for each measurement.

The real engine serves the embedded model over a store of hard links. Measured: seconds to ready, the gateway's memory,
its CPU in an idle second (polls included), the longest that reading all pages of GET /v1/adapters keeps another request
waiting, answers lost while the store is moved away and back, and the requests that one read of the same store on an S3
API takes.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
from pydantic import Field
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict

from loadtest.process import serving
from loadtest.store.manystore import copy_here, fill
from service.adapters.store import Store


class BigStore(BaseSettings):
    """Measure a service over a store of many adapters, and over one of two."""

    model_config = SettingsConfigDict(
        frozen=True, env_prefix="MANYLENS_", cli_kebab_case=True, cli_prog_name="python -m loadtest.store.bigstore"
    )

    adapters: int = Field(10_000, ge=2, description="adapters in the large store")
    rounds: int = Field(1, ge=1, description="starts of each service, in turn")
    module: str = Field("service", description="what to serve with; `loadtest.service.fake_service` has no engine")
    idle_s: float = Field(20.0, gt=0, description="seconds in which nothing is asked, to measure polls by")
    port: int = Field(8197, description="port to serve on")
    store: Path = Field(Path("models/adapters"), description="where `digits` is, of which all adapters are made")
    objects: bool = Field(True, description="look at the same store on an S3 API too: needs the extra `s3`")


def main(arguments: list[str]) -> int:
    """Measure and print; returns the exit status: 1 where an answer was lost."""
    options, lost = CliApp.run(BigStore, cli_args=arguments), 0
    Path("build").mkdir(exist_ok=True)
    with TemporaryDirectory(dir="build") as directory:  # on the disk of the repository: hard links do not cross disks
        folder = Path(directory)
        source = copy_here(options.store, "digits", folder)
        roots = {count: folder / f"store-{count}" for count in (2, options.adapters)}
        for count, root in roots.items():
            fill(root, source, count)
        for number in range(options.rounds):
            for count, root in roots.items():
                figures = _measure(options, count, root, folder / f"cache-{number}-{count}")
                lost += int(figures["lost"])
                print(json.dumps({"bench": "store", **figures}), flush=True)
        if options.objects:
            print(json.dumps({"bench": "store on S3", **_on_s3(options, folder)}), flush=True)
    return int(lost > 0)


def _measure(options: BigStore, count: int, root: Path, cache: Path) -> dict[str, float]:
    began = time.perf_counter()
    command = ("--adapters", str(root), "--adapters-cache", str(cache))
    with serving(options.module, options.port, *command) as url:
        ready_s = time.perf_counter() - began
        pid = _listener()
        asyncio.run(_ask_once(url))
        before = _cpu_s(pid)
        time.sleep(options.idle_s)
        cpu = (_cpu_s(pid) - before) / options.idle_s
        listed_s, held_s = asyncio.run(_list_all(url))
        answered, lost = asyncio.run(_move_away(url, root))
        return {
            "adapters": count,
            "ready_s": round(ready_s, 1),
            "memory_mb": round(_memory(pid)),
            "idle_cpu": round(cpu, 4),
            "list_all_s": round(listed_s, 3),
            "held_ms": round(held_s * 1000, 1),
            "answered": answered,
            "lost": lost,
        }


def _listener() -> int:
    """The id of the service's process: the newest child of this one."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return int(children[-1])


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


async def _ask(client: httpx.AsyncClient, name: str) -> bool:
    answer = await client.post("/v1/vqa", json={"question": "which digit?", "adapter": name, "max_tokens": 2})
    return answer.is_success


async def _ask_once(url: str) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        assert await _ask(client, "a00000")
        assert await _ask(client, "a00001")


async def _list_all(url: str) -> tuple[float, float]:
    """Seconds to read every page, the mean of five times, and the longest that GET /healthz took meanwhile."""
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        waits: list[float] = []

        async def watch() -> None:
            while True:
                began = time.perf_counter()
                await client.get("/healthz")
                waits.append(time.perf_counter() - began)

        watching = asyncio.create_task(watch())
        began, after = time.perf_counter(), ""
        for _ in range(5):
            while after is not None:
                page = (await client.get("/v1/adapters", params={"after": after})).raise_for_status().json()
                after = page["next"]
            after = ""
        listed_s = (time.perf_counter() - began) / 5
        watching.cancel()
    return listed_s, max(waits)


async def _move_away(url: str, root: Path) -> tuple[int, int]:
    """How many questions to two adapters were answered, and how many not, while their store was moved away and back."""
    counts = {True: 0, False: 0}
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        with _moving(root) as move:
            for number in range(40):
                if number % 10 == 5:
                    move()
                    await asyncio.sleep(2.5)
                counts[await _ask(client, f"a0000{number % 2}")] += 1
                await asyncio.sleep(0.05)
    return counts[True], counts[False]


@contextmanager
def _moving(root: Path) -> Iterator[Callable[[], object]]:
    away = root.with_suffix(".away")

    def move() -> None:
        away.rename(root) if away.exists() else root.rename(away)

    yield move
    if away.exists():
        away.rename(root)


def _on_s3(options: BigStore, folder: Path) -> dict[str, object]:
    from loadtest.store.objects import BUCKET, objects

    (folder / "s3").mkdir()
    source = copy_here(options.store, "digits", folder / "s3")
    with objects() as server:
        server.fill(source, options.adapters)
        store = Store(f"s3://{BUCKET}/adapters", folder / "cache-s3")
        found: dict[str, object] = {"adapters": options.adapters, "keys": len(server.keys)}
        for what in ("first", "unchanged"):
            server.counted()
            began, cpu = time.perf_counter(), time.process_time()
            store.catalog()
            took = {
                "s": round(time.perf_counter() - began, 2),
                "cpu_s_with_the_server": round(time.process_time() - cpu, 2),
            }
            found[what] = {"requests": server.counted(), **took}
        store.close()
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
