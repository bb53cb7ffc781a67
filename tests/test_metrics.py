"""Every series the design names is there, and what callers make up never becomes one."""

import asyncio
import re
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from loadtest.store.stores import Maker
from service.adapters.base import Base
from service.adapters.manifest import FILE, Manifest, Score
from service.adapters.proof import Proof
from service.adapters.store import Store
from service.engine.fake import FakeEngine
from service.metrics import Metrics
from service.prompt import Prompt
from service.settings import Settings
from tests.balancers import free_port
from tests.conftest import ADAPTERS, CHECKPOINT, Running, serving, until
from tests.test_auth import bearer, write
from tests.test_http_edge import ask

SERIES = {
    "vqa_requests_total": {"adapter", "outcome"},
    "vqa_request_seconds": {"adapter"},
    "vqa_time_to_first_token_seconds": {"adapter"},
    "vqa_time_per_output_token_seconds": {"adapter"},
    "vqa_queue_seconds": {"adapter"},
    "vqa_image_seconds": {"stage"},
    "vqa_tokens_total": {"adapter", "kind"},
    "vqa_in_flight": set(),
    "vqa_requests_waiting": set(),
    "vqa_requests_waiting_limit": set(),
    "vqa_requests_running": set(),
    "vqa_requests_running_limit": set(),
    "vqa_ready": set(),
    "vqa_draining": set(),
    "vqa_build": set(),
    "vqa_connections": set(),
    "vqa_connections_limit": set(),
    "vqa_bytes_in_hand": set(),
    "vqa_limits_alone": set(),
    "vqa_engine_heard_timestamp_seconds": set(),
    "vqa_engine_silence_limit_seconds": set(),
    "vqa_engine_restarts_total": set(),
    "vqa_store_seen_timestamp_seconds": set(),
    "vqa_store_poll_seconds": set(),
    "vqa_adapter_store_up": set(),
    "vqa_adapter_load_seconds": set(),
    "vqa_adapter_rejected_total": {"reason"},
    "vqa_adapter_failed_total": {"reason"},
    "vqa_adapter_resident_limit": set(),
    "vqa_release_requests_total": {"adapter", "release", "outcome"},
    "vqa_member_requests_total": {"adapter", "member", "outcome"},
    "vqa_feedback_total": {"adapter", "release", "verdict"},
    "vqa_captured_total": {"outcome"},
}


@pytest.fixture(scope="module")
def maker(prompt: Prompt) -> Maker:
    proof = Proof.for_checkpoint(CHECKPOINT, Base.of_checkpoint(CHECKPOINT), prompt, max_rank=64)
    return Maker(Store(ADAPTERS).stable("digits"), proof)


async def read(running: Running, **headers: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Every sample of /metrics: its value by its name and its labels."""
    text = (await running.client.get("/metrics", headers=headers)).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for sample in samples:
        found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def by(**labels: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(labels.items()))


def test_the_series_are_those_of_the_design() -> None:
    made = [each for each in vars(Metrics()).values() if hasattr(each, "_labelnames")]
    totals = {each._name + ("_total" if each._type == "counter" else ""): set(each._labelnames) for each in made}
    assert totals == SERIES


async def test_names_that_callers_make_up_create_no_series(fake: Running) -> None:
    await ask(fake, adapter="digits")

    async def count() -> int:
        return len((await fake.client.get("/metrics")).text.splitlines())

    await ask(fake, adapter="made-up")
    before = await count()
    for number in range(5):
        await ask(fake, adapter=f"made-up-{number}")
        await ask(fake, adapter=f"digits@{number}")
    assert await count() == before


async def test_requests_are_counted_by_what_chose_the_version(tmp_path: Path, maker: Maker) -> None:
    store = Store(tmp_path)
    old, new = [store.publish("parts", await maker.make(label)).version for label in ("old", "new")]
    store.change("parts", lambda aliases: aliases.point("stable", old).point("beta", new, 0.0))
    async with serving(Settings(adapters=str(tmp_path)), FakeEngine()) as running:
        for reference in ("parts", "parts@stable", "parts@beta", f"parts@{new[:12]}"):
            (await ask(running, adapter=reference, image=None)).raise_for_status()
        await ask(running, image=None)
        await ask(running, adapter="nobody", image=None)
        found = await read(running)
    assert found["vqa_release_requests_total"] == {
        by(adapter="parts", release="stable", outcome="ok"): 2,
        by(adapter="parts", release="canary", outcome="ok"): 1,
        by(adapter="parts", release="pinned", outcome="ok"): 1,
    }


async def test_feedback_counts_as_right_where_it_says_what_was_answered(fake_adapters: Path, tmp_path: Path) -> None:
    settings = Settings(adapters=str(fake_adapters), capture=tmp_path)
    async with serving(settings, FakeEngine()) as running:
        answer = (await ask(running, adapter="digits")).raise_for_status().json()
        for said in (f"  {answer['answer'].upper()} ", "something else"):
            body = {"id": answer["id"], "answer": said}
            (await running.client.post("/v1/feedback", json=body)).raise_for_status()
        to_base = (await ask(running)).raise_for_status().json()
        body = {"id": to_base["id"], "answer": "something else"}
        (await running.client.post("/v1/feedback", json=body)).raise_for_status()
        assert (await running.client.post("/v1/feedback", json={"id": "vqa-1", "answer": "no"})).status_code == 404
        found = await read(running)
    assert found["vqa_feedback_total"] == {
        by(adapter="digits", release="stable", verdict="right"): 1,
        by(adapter="digits", release="stable", verdict="wrong"): 1,
        by(adapter="", release="", verdict="wrong"): 1,
    }


async def test_scores_are_those_of_the_manifests_of_what_is_loaded(tmp_path: Path, maker: Maker) -> None:
    store, files = Store(tmp_path), await maker.make("scored")
    manifest = Manifest.model_validate_json(files[FILE])
    scored = manifest.model_copy(update={"score": Score(rows=8, base=4, adapter=2)})
    version = store.publish("worse", files | {FILE: scored.model_dump_json().encode()}).version
    none = manifest.model_copy(update={"score": Score(rows=0, base=0, adapter=0)})
    store.publish("unscored", files | {FILE: none.model_dump_json().encode()})
    async with serving(Settings(adapters=str(tmp_path)), FakeEngine()) as running:
        assert "vqa_adapter_score" not in await read(running)
        for name in ("worse", "unscored"):
            (await ask(running, adapter=name, image=None)).raise_for_status()
        found = await read(running)
        assert found["vqa_adapter_score"] == {
            by(adapter="worse", version=version, of="adapter"): 0.25,
            by(adapter="worse", version=version, of="base"): 0.5,
        }
        assert found["vqa_adapter_stable"][by(adapter="worse", version=version)] == 1
        other = store.publish("worse", await maker.make("other")).version
        store.change("worse", lambda aliases: aliases.point("stable", other))
        await running.app.state.service.residency.reconcile()
        (await ask(running, adapter="worse", image=None)).raise_for_status()
        stable = (await read(running))["vqa_adapter_stable"]
        assert [labels for labels in stable if ("adapter", "worse") in labels] == [by(adapter="worse", version=other)]


async def test_who_may_not_see_adapters_sees_no_scores_of_them(fake_adapters: Path, tmp_path: Path) -> None:
    keys = write(tmp_path / "keys.json", {"one": {"adapters": ["digits"]}, "boss": {"admin": True}})
    async with serving(Settings(adapters=str(fake_adapters), keys=keys), FakeEngine()) as running:
        body = {"question": "what?", "adapter": "digits"}
        (await running.client.post("/v1/vqa", json=body, headers=bearer("one"))).raise_for_status()
        of_all, of_one = await read(running, **bearer("boss")), await read(running, **bearer("one"))
    assert {"vqa_adapter_score", "vqa_adapter_stable"} <= of_all.keys()
    assert not {"vqa_adapter_score", "vqa_adapter_stable"} & of_one.keys()
    assert of_one["vqa_release_requests_total"] == {by(release="stable", outcome="ok"): 1}


async def test_a_store_that_is_gone_was_last_seen_before(tmp_path: Path, fake_adapters: Path) -> None:
    link = tmp_path / "store"
    link.symlink_to(fake_adapters)
    async with serving(Settings(adapters=str(link), adapters_poll_s=0.01), FakeEngine()) as running:
        metrics = running.app.state.service.metrics

        def seen() -> float:
            return float(metrics.registry.get_sample_value("vqa_store_seen_timestamp_seconds") or 0)

        first = seen()
        await until(lambda: seen() > first)
        assert (await read(running))["vqa_store_poll_seconds"][()] >= 0.01
        link.unlink()
        await until(lambda: not metrics.registry.get_sample_value("vqa_adapter_store_up"))
        last = seen()
        failed = metrics.store_up._value
        failed.set(1)
        await until(lambda: not failed.get())  # looked at again, in vain
        assert seen() == last
        link.symlink_to(fake_adapters)
        await until(lambda: seen() > last)


async def test_the_port_for_metrics_gives_names_as_they_are_to_a_prometheus_that_prefers_another_format(
    fake_adapters: Path,
) -> None:
    settings = Settings(adapters=str(fake_adapters), metrics_port=free_port())
    wants = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
    async with serving(settings, FakeEngine()) as running, httpx.AsyncClient() as client:
        (await ask(running, adapter="digits")).raise_for_status()
        answer = await client.get(f"http://127.0.0.1:{settings.metrics_port}/metrics", headers={"accept": wants})
    assert answer.headers["content-type"].startswith("text/plain")
    assert 'vllm:lora_requests_info{max_lora="4",running_lora_adapters="digits"' in answer.text
    assert 'vqa_requests_total{adapter="digits",outcome="ok"} 1.0' in answer.text


async def test_a_scraper_that_hangs_up_leaves_no_traceback(
    fake_adapters: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(adapters=str(fake_adapters), metrics_port=free_port())
    async with serving(settings, FakeEngine()), httpx.AsyncClient() as client:
        for _ in range(20):
            _, writer = await asyncio.open_connection("127.0.0.1", settings.metrics_port)
            writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
            await writer.drain()
            writer.transport.abort()
        await client.get(f"http://127.0.0.1:{settings.metrics_port}/metrics")
        await asyncio.sleep(0.2)
    assert "Traceback" not in capfd.readouterr().err


async def test_limits_are_shown_beside_what_they_limit(fake_adapters: Path) -> None:
    settings = Settings(
        adapters=str(fake_adapters),
        waiting=7,
        in_flight=3,
        connections=50,
        max_cpu_loras=5,
        engine_canary_s=2.0,
        engine_canary_deadline_s=4.0,
    )
    async with serving(settings, FakeEngine()) as running:
        found = await read(running)
    limits = {name: samples[()] for name, samples in found.items() if re.search(r"vqa_\w+_limit(_seconds)?$", name)}
    assert limits == {
        "vqa_requests_waiting_limit": 7,
        "vqa_requests_running_limit": 3,
        "vqa_connections_limit": 50,
        "vqa_adapter_resident_limit": 5,
        "vqa_engine_silence_limit_seconds": 6,
    }


async def test_swaps_leave_no_series_behind(tmp_path: Path, maker: Maker) -> None:
    store, names = Store(tmp_path), [f"lens-{number}" for number in range(24)]
    files = {name: await maker.make(name) for name in names}
    for name in names:
        store.publish(name, files[name])
    async with serving(Settings(adapters=str(tmp_path), max_loras=2, max_cpu_loras=4), FakeEngine()) as running:

        async def ask_all() -> str:
            for name in names:
                (await ask(running, adapter=name, image=None)).raise_for_status()
            return (await running.client.get("/metrics")).text

        first, *_, last = [await ask_all() for _ in range(6)]
    assert running.engine.loads == 6 * 24  # type: ignore[attr-defined]
    assert len(last.splitlines()) == len(first.splitlines())
    # vLLM's own take 60,000 more where it was imported, as a test before this one may have done.
    assert sum(len(line) for line in last.splitlines() if "vllm:" not in line) < 130_000
