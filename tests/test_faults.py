"""What the service is held to when something goes wrong, on the real engine: `make test-faults`.

Each case states its bounds before it runs. All are printed as one scorecard and written to build/faults.json.
tests/plant.py has the two services that are hurt.
Needs root, util-linux's unshare, HAProxy and Debian's `faketime`.
"""

import asyncio
import contextlib
import os
import random
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from loadtest.client import Due, Sent, encode, percentile, send_all
from loadtest.store.stores import files_of
from service.adapters.manifest import FILE, Manifest
from service.adapters.store import Store
from tests.balancers import CHECK_MS, balancing
from tests.conftest import ADAPTERS, ROOT, png
from tests.plant import (
    CANARY_S,
    DEADLINE_S,
    FAKETIME,
    FAR,
    IN_FLIGHT,
    POLL_S,
    WAITING,
    WHO,
    Crowd,
    Plant,
    asked,
    filled,
    line_through,
    memory_mb,
    metric,
    question,
    silent_names,
    start_in_the_box,
    status,
    trickling,
    until,
    until_status,
)
from tests.scorecard import at_least, at_most, exactly
from tests.test_http_edge import QUESTION, data_url
from tests.test_replicas import release
from tests.test_start_on_vllm import named

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        not (os.geteuid() == 0 and FAKETIME.exists() and shutil.which("haproxy", path="/usr/sbin:/usr/bin")),
        reason="needs root, haproxy and faketime",
    ),
]

REQUESTS = 10_000
QUIET_MB = 5.0  # of 2,500: what others on the machine share of its libraries changes as much
SLOW_SOCKETS = 500
OVERLOAD_S = 20.0  # a batch of IN_FLIGHT answers ends together: some twenty batches make goodput exact to a twentieth
JUMP_S = 86_400
# Held to a schema, the answer has some two hundred tokens; by itself it has three, and a tiny model gives hundreds of
# those in a second. So its capacity is about what a 7B on one GPU has.
NUMBERS = {"type": "array", "items": {"enum": [1, 2, 3]}, "minItems": 60, "maxItems": 60}
MORE_NUMBERS = NUMBERS | {"minItems": 150, "maxItems": 200}


def counted(numbers: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A chat whose answer is as long as `numbers` say."""
    schema = {"type": "json_schema", "json_schema": {"name": "numbers", "schema": numbers}}
    message = {"role": "user", "content": "count"}
    body = {"model": "tiny-llava-int4", "messages": [message], "max_tokens": 600, "response_format": schema}
    return body | fields


@pytest.fixture(scope="module")
def senders() -> Iterator[Executor]:
    """A process of low priority: elsewhere a client has its own machine, here it would take the service's share."""
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=os.nice, initargs=(10,)) as senders:
        yield senders


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    folder = tmp_path_factory.mktemp("plant")
    shutil.copytree(ADAPTERS, folder / "store")
    for name in ("box", "box/cache", "box/kept"):
        (folder / name).mkdir()
    (folder / "link").symlink_to(folder / "store")
    plant = Plant(folder, Store(folder / "store"), folder / "link", folder / "box", [])
    began = time.monotonic()
    one = plant.start("--adapters", str(plant.link))
    try:
        one.until_ready()
        plant.cold_s = time.monotonic() - began
        print(f"\na cold start: {plant.cold_s:.1f} s")
        plant.right = {who: asked(one, who).json()["answer"] for who in WHO}
        yield plant
    finally:
        print(f"\n{plant.card.table()}")
        for service in plant.services:
            with contextlib.suppress(ProcessLookupError):
                service.process.send_signal(signal.SIGCONT)
                service.process.kill()
            service.process.wait(60)
            service.assert_nothing_left()


async def test_38_kill_9_of_the_engine(plant: Plant) -> None:
    bounds = {"seen_s": at_most(1), "back_of_a_cold_start": at_most(0.25), "wrong": exactly(0)}
    with plant.card.case("38 kill -9 of the engine", **bounds) as measured:
        async with Crowd(plant, plant.one.url) as crowd:
            (engine,) = plant.one.engines()
            os.kill(engine, signal.SIGKILL)
            measured["seen_s"] = await until_status(plant.one, 503)
            measured["back_s"] = measured["seen_s"] + await until_status(plant.one, 200)
        measured["back_of_a_cold_start"] = measured["back_s"] / plant.cold_s
        measured["wrong"] = crowd.wrong(200, 503)


async def test_38_kill_9_of_the_worker(plant: Plant) -> None:
    """Which is what the kernel kills where memory runs out: it is the largest."""
    with plant.card.case("38 kill -9 of the engine's worker", seen_s=at_most(1), wrong=exactly(0)) as measured:
        async with Crowd(plant, plant.one.url) as crowd:
            (worker,) = (pid for pid in plant.one.left() if named(pid, "Worker"))
            os.kill(worker, signal.SIGKILL)
            measured["seen_s"] = await until_status(plant.one, 503)
            measured["back_s"] = measured["seen_s"] + await until_status(plant.one, 200)
        measured["wrong"] = crowd.wrong(200, 503)


async def test_39_sigstop_of_the_engine(plant: Plant) -> None:
    seen = at_most(CANARY_S + DEADLINE_S)
    with plant.card.case("39 SIGSTOP of the engine", seen_s=seen, wrong=exactly(0)) as measured:
        async with Crowd(plant, plant.one.url) as crowd:
            (engine,) = plant.one.engines()
            os.kill(engine, signal.SIGSTOP)
            measured["seen_s"] = await until_status(plant.one, 503)
            measured["back_s"] = measured["seen_s"] + await until_status(plant.one, 200)
        measured["wrong"] = crowd.wrong(200, 503)


@pytest.mark.parametrize("times", [2, 5, 10])
async def test_40_overload(plant: Plant, senders: Executor, times: int) -> None:
    """Answers of some two hundred tokens; goodput is what was answered within the seconds in which was asked.

    The peak is what it is at 1.3 times the capacity, just before and just after.
    """
    loop = asyncio.get_running_loop()
    client = httpx.Client(base_url=plant.one.url)
    content = encode(client.build_request("POST", "/v1/chat/completions", json=counted(NUMBERS)))

    async def send(requests: list[Due]) -> list[Sent]:
        return await loop.run_in_executor(senders, send_all, plant.one.url, requests)

    async def offer(rate: float) -> list[Sent]:
        sent = await send([Due(number / rate, "", content) for number in range(int(rate * OVERLOAD_S))])
        await until_status(plant.one, 200)
        return sent

    def goodput(sent: list[Sent]) -> float:
        return sum(each.status == 200 and 2 <= each.at + each.seconds <= OVERLOAD_S for each in sent) / (OVERLOAD_S - 2)

    burst = [Due(0.0, "", content)] * (IN_FLIGHT + WAITING)
    await send(burst)
    began = time.monotonic()
    await send(burst)
    capacity = len(burst) / (time.monotonic() - began)
    bounds = {"goodput_of_peak": at_least(0.9), "refused_p99_s": at_most(0.05), "other_statuses": exactly(0)}
    with plant.card.case(f"40 overload at {times} times", **bounds) as measured:
        before = goodput(await offer(1.3 * capacity))
        sent = await offer(times * capacity)
        peak = statistics.mean((before, goodput(await offer(1.3 * capacity))))
        refused = sorted(each.seconds for each in sent if each.status != 200)
        measured |= {"asked_per_s": times * capacity, "peak_per_s": peak, "goodput_per_s": goodput(sent)}
        measured |= {"goodput_of_peak": goodput(sent) / peak, "refused": len(refused)}
        measured["refused_p99_s"] = percentile(refused, 99)
        # Each refusal says when to come again.
        measured["other_statuses"] = sum(
            each.status != 200 and not (each.status in (429, 503) and each.again) for each in sent
        )


async def test_500_sockets_whose_bytes_trickle_in(plant: Plant) -> None:
    bounds = {"answered": at_least(0.999), "requests": at_least(1000), "sockets": at_least(0.9 * SLOW_SOCKETS)}
    with plant.card.case(f"{SLOW_SOCKETS} slow sockets", **bounds) as measured:
        async with trickling(plant.one, SLOW_SOCKETS), Crowd(plant, plant.one.url, 8) as crowd:
            measured["sockets"] = metric(plant.one, "vqa_connections")
            end = time.monotonic() + 60
            while time.monotonic() < end and len(crowd.heard) < 1500:  # noqa: ASYNC110 - a list tells nobody
                await asyncio.sleep(0.5)
        measured |= {"requests": len(crowd.heard), "answered": crowd.share_answered}


async def test_41_a_client_that_leaves(plant: Plant) -> None:
    with plant.card.case("41 client gone", tokens_a_second_later=exactly(0), slots_held=exactly(0)) as measured:
        async with httpx.AsyncClient(base_url=plant.one.url, timeout=60) as client:
            body = counted(MORE_NUMBERS, stream=True)
            async with client.stream("POST", "/v1/chat/completions", json=body) as response:
                await anext(response.aiter_bytes())
        await asyncio.sleep(1)
        tokens = metric(plant.one, "vllm:generation_tokens_total")
        measured["slots_held"] = metric(plant.one, "vqa_requests_running")
        await asyncio.sleep(1)
        measured["tokens_a_second_later"] = metric(plant.one, "vllm:generation_tokens_total") - tokens


async def test_45_no_file_descriptor_left(plant: Plant) -> None:
    bounds = {"answered_on_kept_connections": exactly(1), "back_s": at_most(5)}
    with plant.card.case("45 EMFILE", **bounds) as measured:
        pid = plant.one.process.pid
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        async with Crowd(plant, plant.one.url) as crowd:
            used = len(list(Path(f"/proc/{pid}/fd").iterdir()))  # noqa: ASYNC240 - no disk is asked
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 4, before[1]))
            try:
                with contextlib.ExitStack() as held:
                    for _ in range(60):
                        held.enter_context(socket.create_connection(("127.0.0.1", plant.one.port)))
                    await asyncio.sleep(5)
                measured["back_s"] = await until_status(plant.one, 200)
            finally:
                resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        measured["answered_on_kept_connections"] = crowd.share_answered


async def test_48_metrics_asked_for_all_the_time(plant: Plant) -> None:
    """A hundred times as often as two Prometheus servers do."""
    bounds = {"answered": exactly(1), "p95_of_quiet": at_most(3)}
    with plant.card.case("48 /metrics hammered: 13 a second", **bounds) as measured:

        def p95(crowd: Crowd) -> float:
            return percentile(sorted(each.seconds for each in crowd.heard), 95)

        async with Crowd(plant, plant.one.url) as quiet:
            await asyncio.sleep(5)
        async with Crowd(plant, plant.one.url) as crowd, httpx.AsyncClient(base_url=plant.one.url) as scraper:
            end, scrapes = time.monotonic() + 8, 0
            while time.monotonic() < end:
                scrapes += (await scraper.get("/metrics")).is_success
                await asyncio.sleep(1 / 13)
        measured |= {"scrapes": scrapes, "answered": crowd.share_answered, "quiet_p95_s": p95(quiet)}
        measured |= {"p95_s": p95(crowd), "p95_of_quiet": p95(crowd) / p95(quiet)}


async def test_50_a_trainer_killed_while_it_publishes(plant: Plant) -> None:
    publishing = f"""
import sys
from loadtest.store.stores import files_of
from service.adapters.store import Store
store = Store({str(plant.folder / "store")!r})
files = files_of(store.stable("shapes"))
print("go", flush=True)
while True:
    store.publish("shapes", files | {{"images.txt": __import__("os").urandom(1_000_000).hex().encode()}})
"""
    refused = "vqa_adapter_rejected_total"
    bounds = {"half_written": exactly(0), "wrong": exactly(0), "kills": exactly(8)}
    with plant.card.case("50 trainer killed while it publishes", **bounds) as measured:
        before, draw = metric(plant.one, refused), random.Random(0)
        async with Crowd(plant, plant.one.url) as crowd:
            for number in range(8):
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-c", publishing, cwd=ROOT, stdout=subprocess.PIPE
                )
                assert process.stdout is not None
                await process.stdout.readline()
                await asyncio.sleep(draw.uniform(0, 0.2))
                process.kill()
                await process.communicate()
                measured["kills"] = number + 1
            await asyncio.sleep(3 * POLL_S)
        measured["half_written"] = metric(plant.one, refused) - before
        measured["wrong"] = crowd.wrong(200)


async def test_memory_over_10_000_requests(plant: Plant) -> None:
    """The slope of a straight line through the memory of all its processes, shared pages counted once.

    Neighbouring samples are much alike, so that its standard error is taken for as many samples as are independent:
    n (1 - r) / (1 + r), where r is the correlation of a residual with the next (Wilks, Statistical Methods in the
    Atmospheric Sciences, 5.12). Noise is two standard errors, and never less than QUIET_MB. As many requests are asked
    before: caches fill, oneDNN's with a primitive for each size of batch, and what that took is told as `warming_mb`.
    """
    bounds = {"beyond_noise_mb": at_most(0), "wrong": exactly(0)}
    with plant.card.case(f"memory over {REQUESTS} requests", **bounds) as measured:
        samples: list[tuple[int, float]] = []
        async with Crowd(plant, plant.one.url, 16) as crowd:
            while len(crowd.heard) < 2 * REQUESTS:
                samples.append((len(crowd.heard), await asyncio.to_thread(memory_mb, plant.one)))
                await asyncio.sleep(0.5)
        later = np.array([sample for sample in samples if sample[0] >= REQUESTS])
        measured["warming_mb"] = float(later[0, 1]) - samples[0][1]
        slope, error = line_through(later[:, 0], later[:, 1])
        measured |= {"samples": len(later), "mb": float(later[:, 1].mean()), "grows_mb": REQUESTS * slope}
        measured["standard_error_mb"] = REQUESTS * error
        measured["beyond_noise_mb"] = REQUESTS * slope - max(2 * REQUESTS * error, QUIET_MB)
        measured["wrong"] = crowd.wrong(200)


async def test_47_a_start_whose_store_is_not_there(plant: Plant) -> None:
    """The service in the box is started here, with a link that leads nowhere for its store."""
    bounds = {"live": exactly(1), "wrong_while_it_starts": exactly(0), "base_answers": exactly(1)}
    with plant.card.case("47 a start, its store not there", **bounds) as measured:
        two, told = start_in_the_box(plant), list[tuple[int, int, int]]()

        async def ready() -> bool:
            # libfaketime calls getenv wherever a thread waits: a segfault where another thread calls setenv meanwhile.
            assert two.process.poll() is None, f"it ended; where libfaketime did it, run this again: {two.log}"
            if not await status(two, "/healthz"):
                return False
            asked = await status(two, "/v1/vqa", **question("digits"))  # first: it may be ready the moment after
            told.append((await status(two, "/healthz"), ready := await status(two), asked))
            return ready == 200

        measured["ready_s"] = await until(ready)
        measured["live"] = float({live for live, _, _ in told} == {200})
        measured["wrong_while_it_starts"] = sum(each[1:] != (503, 503) for each in told[:-1])
        measured["looks"] = len(told)
        measured["base_answers"] = float((await status(two, "/v1/vqa", **question(None))) == 200)


async def test_a_store_that_comes_late_goes_and_comes_back(plant: Plant) -> None:
    away = plant.folder / "away"
    bounds = {"seen_s": at_most(10), "wrong_without_it": exactly(0), "seen_again_s": at_most(2 * POLL_S)}
    with plant.card.case("store gone at the start and later", **bounds) as measured:

        async def answers() -> bool:
            return await status(plant.two, "/v1/vqa", **question("digits")) == 200

        away.symlink_to(plant.folder / "store")
        measured["seen_s"] = await until(answers)
        await asyncio.to_thread(asked, plant.two, "shapes")  # a version nobody asked for yet would have to be fetched
        async with Crowd(plant, plant.two.url) as crowd:
            away.unlink()
            await asyncio.sleep(2 * POLL_S)
            files = files_of(plant.store.stable("digits"))
            manifest = Manifest.model_validate_json(files[FILE]).model_copy(update={"about": "newer"})
            new = plant.store.publish("digits", files | {FILE: manifest.model_dump_json().encode()}).version

            async def has_it() -> bool:
                answer = await asyncio.to_thread(asked, plant.two, "digits")
                return answer.is_success and bool(answer.json()["adapter"]["version"] == new)

            away.symlink_to(plant.folder / "store")
            measured["seen_again_s"] = await until(has_it)
        measured |= {"requests": len(crowd.heard), "wrong_without_it": crowd.wrong(200)}


async def test_changes_of_releases_are_seen_by_both_replicas(plant: Plant) -> None:
    changes = ("new_adapter", "alias_flip", "canary_weight", "rollback", "deletion")
    bounds = dict.fromkeys(changes, at_most(2 * POLL_S))
    with plant.card.case("releases seen by both replicas, in seconds", **bounds) as measured:
        took = await release([plant.one.url, plant.two.url], plant.store)
        measured |= {kind.replace(" ", "_"): seconds for kind, seconds in took.items()}


async def test_49_the_clock_jumps(plant: Plant) -> None:
    bounds = {"jump_seen_s": at_least(0.9 * JUMP_S), "wrong": exactly(0), "restarts": exactly(0)}
    bounds |= {"late_deadlines": exactly(0)}
    restarts = metric(plant.two, "vqa_engine_restarts_total")
    with plant.card.case("49 the clock jumps a day ahead, and two back", **bounds) as measured, silent_names():
        measured["late_deadlines"] = 0
        async with Crowd(plant, plant.two.url) as crowd:
            for offset in (JUMP_S, -JUMP_S, 0):
                (plant.box / "clock").write_text(f"{offset:+d}")
                await asyncio.sleep(4)
                off = abs(metric(plant.two, "vqa_engine_heard_timestamp_seconds") - time.time())
                measured.setdefault("jump_seen_s", off)
                began = time.monotonic()
                late = await status(plant.two, "/v1/vqa", question=QUESTION, image=FAR, deadline_s=1)
                measured["late_deadlines"] += late != 504 or time.monotonic() - began > 3
        measured["restarts"] = metric(plant.two, "vqa_engine_restarts_total") - restarts
        measured["wrong"] = crowd.wrong(200)


async def test_44_the_disk_for_what_is_kept_is_full(plant: Plant) -> None:
    with plant.card.case("44 full disk for what is kept", wrong=exactly(0), told=at_least(1)) as measured:
        before = metric(plant.two, "vqa_captured_total", but='outcome="ok"')
        with filled(plant.in_the_box(plant.box / "kept")):
            async with Crowd(plant, plant.two.url) as crowd:
                await asyncio.sleep(2)
            measured["told"] = metric(plant.two, "vqa_captured_total", but='outcome="ok"') - before
        measured["wrong"] = crowd.wrong(200)


async def test_the_cache_is_full_and_the_engine_is_killed(plant: Plant) -> None:
    with plant.card.case("/cache full, and an engine lost", wrong=exactly(0), back_s=at_most(60)) as measured:
        with filled(plant.in_the_box(plant.box / "cache")):
            async with Crowd(plant, plant.two.url) as crowd:
                os.kill(plant.two.engines()[0], signal.SIGKILL)
                await until_status(plant.two, 503)
                measured["back_s"] = await until_status(plant.two, 200)
        measured["wrong"] = crowd.wrong(200, 503)


async def test_dev_shm_is_full_and_the_engine_is_killed(plant: Plant) -> None:
    bounds = {"wrong": exactly(0), "live": exactly(1), "back_s": at_most(60)}
    with plant.card.case("/dev/shm full, and an engine lost", **bounds) as measured:
        async with Crowd(plant, plant.two.url) as crowd:
            with filled(plant.in_the_box(Path("/dev/shm"))):
                os.kill(plant.two.engines()[0], signal.SIGKILL)
                await until_status(plant.two, 503)
                await asyncio.sleep(8)
                measured["live"] = float(await status(plant.two, "/healthz") == 200)
                measured["ready_while_full"] = float(await status(plant.two) == 200)
            measured["back_s"] = await until_status(plant.two, 200)
        measured["wrong"] = crowd.wrong(200, 503)


async def test_no_name_server(plant: Plant) -> None:
    """It hears and says nothing: the worst of them. The limit for an image's URL is 10 s."""
    bounds = {"others_answered": exactly(1), "answer_s": at_most(15), "wrong": exactly(0)}
    with plant.card.case("DNS gone", **bounds) as measured, silent_names():
        async with Crowd(plant, plant.two.url) as crowd, httpx.AsyncClient(timeout=60) as client:
            body = {"question": QUESTION, "image": FAR}
            began = time.monotonic()
            answers = await asyncio.gather(*(client.post(f"{plant.two.url}/v1/vqa", json=body) for _ in range(20)))
            measured["answer_s"] = time.monotonic() - began
        measured["wrong"] = sum(each.status_code not in (502, 504) for each in answers)
        measured["others_answered"] = crowd.share_answered


async def test_two_replicas_behind_haproxy_and_one_stands_still(plant: Plant, tmp_path: Path) -> None:
    clients, checked_s = 8, 3 * CHECK_MS / 1000
    bounds = {"lost": at_most(clients), "lost_after_the_check": exactly(0), "back_s": at_most(10)}
    with plant.card.case("two replicas behind HAProxy, one SIGSTOPped", **bounds) as measured:
        async with (
            balancing("haproxy", tmp_path, [plant.one.port, plant.two.port], patience_s=5) as url,
            Crowd(plant, url, clients) as crowd,
        ):
            await asyncio.sleep(2)
            frozen = time.monotonic()
            plant.two.process.send_signal(signal.SIGSTOP)
            try:
                await asyncio.sleep(8)
                thawed = time.monotonic()
            finally:
                plant.two.process.send_signal(signal.SIGCONT)
            measured["back_s"] = await until_status(plant.two, 200)
            await asyncio.sleep(2)
        lost = [each for each in crowd.heard if each.status != 200 or not each.right]
        measured["lost"] = len(lost)
        measured["lost_after_the_check"] = sum(each.at > frozen + checked_s for each in lost)
        measured["answered_meanwhile"] = sum(frozen + checked_s < each.at < thawed for each in crowd.heard)


async def test_43_a_second_sigterm(plant: Plant) -> None:
    with plant.card.case("43 a second SIGTERM", ends_s=at_most(2), status=exactly(1)) as measured:
        # So many that they are still under way when the second signal comes: one alone takes under a second.
        long = counted(MORE_NUMBERS)
        asking = [asyncio.create_task(status(plant.two, "/v1/chat/completions", **long)) for _ in range(IN_FLIGHT)]
        await asyncio.sleep(0.5)
        plant.two.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.2)
        plant.two.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        measured["status"] = await asyncio.to_thread(plant.two.process.wait, 30)
        measured["ends_s"] = time.monotonic() - began
        await asyncio.gather(*asking)


async def test_42_sigterm(plant: Plant) -> None:
    bounds = {"unready_s": at_most(0.5), "ended_well": exactly(1), "new_refused": exactly(1), "status": exactly(0)}
    with plant.card.case("42 SIGTERM with questions under way", **bounds) as measured:
        long = [
            asyncio.create_task(status(plant.one, "/v1/chat/completions", **counted(MORE_NUMBERS))) for _ in range(8)
        ]
        await asyncio.sleep(0.5)
        plant.one.process.send_signal(signal.SIGTERM)
        measured["unready_s"] = await until_status(plant.one, 503)
        measured["new_refused"] = float(await status(plant.one, "/v1/vqa", **question(None)) == 503)
        measured["ended_well"] = float(set(await asyncio.gather(*long)) == {200})
        measured["status"] = await asyncio.to_thread(plant.one.process.wait, 60)


async def test_sigterm_while_it_starts(plant: Plant) -> None:
    # Kubernetes waits ten seconds longer than for the drain.
    with plant.card.case("SIGTERM while it starts", status=exactly(0), ends_s=at_most(10)) as measured:
        service = plant.start("--log-level", "info")
        await asyncio.to_thread(service.until_said, "starting the engine")
        await asyncio.sleep(1)
        service.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        measured["status"] = await asyncio.to_thread(service.process.wait, 60)
        measured["ends_s"] = time.monotonic() - began


@pytest.fixture
def crowded() -> Iterator[Callable[[int], None]]:
    """Puts a process where it may take 64 MB more and no byte beyond."""
    group = Path(f"/sys/fs/cgroup/memory/manylens-{os.getpid()}")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no memory cgroup (v1) can be made here: {error}")
    (group / "memory.limit_in_bytes").write_text("64M")

    def crowd(pid: int) -> None:
        (group / "cgroup.procs").write_text(str(pid))

    yield crowd
    group.rmdir()


async def test_46_out_of_memory(plant: Plant, crowded: Callable[[int], None]) -> None:
    """The kernel kills the gateway where its memory cgroup is full; what restarts it finds nothing of it left."""
    bounds = {"signal": exactly(-signal.SIGKILL), "gone_s": at_most(5), "answers_again": exactly(1)}
    with plant.card.case("46 out of memory", **bounds) as measured:
        service = plant.start()
        await asyncio.to_thread(service.until_ready)
        crowded(service.process.pid)
        await status(service, "/v1/vqa", question=QUESTION, image=data_url(png(size=(6000, 6000))))
        measured["signal"] = await asyncio.to_thread(service.process.wait, 30)
        began = time.monotonic()
        await asyncio.to_thread(service.assert_nothing_left)
        measured["gone_s"] = time.monotonic() - began
        again = plant.start()
        await asyncio.to_thread(again.until_ready)
        measured["answers_again"] = float(await status(again, "/v1/vqa", **question(None)) == 200)
