"""Where an endpoint picker would send a question: our /metrics, read by the picker's own file and rules.

The rules are llm-d Router's (pkg/epp/framework/plugins, release 0.9): a series that is not there counts as nothing, of
several samples of the LoRA family the one with the largest value counts, and an adapter scores 1.0 where it runs, 0.8
where there is room, 0.6 where it is waited for, else 0.
"""

import asyncio
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families as families

from service.engine.fake import FakeEngine
from service.settings import Settings
from tests.conftest import ROOT, png, serving, until
from tests.test_auth import bearer, write
from tests.test_http_edge import QUESTION, ask, data_url

FILE = ROOT / "deploy/k8s/components/inference-gateway/picker.yaml"


def specifications() -> dict[str, str]:
    """What the picker reads, by what it takes it for."""
    plugins = {plugin["type"]: plugin.get("parameters", {}) for plugin in yaml.safe_load(FILE.read_text())["plugins"]}
    (engine,) = plugins["core-metrics-extractor"]["engineConfigs"]
    return {name: value for name, value in engine.items() if name.endswith("Spec")}


def read(text: str) -> dict[str, Any]:
    """Name of a specification: its sample's value, or for the LoRA family its labels; absent where there is none."""
    samples = {family.name: family.samples for family in families(text)}
    found: dict[str, Any] = {}
    for name, series in specifications().items():
        if there := samples.get(series):
            latest = max(there, key=lambda sample: sample.value)
            found[name] = latest.labels if name == "loraSpec" else there[0].value
    return found


def affinity(labels: dict[str, str], model: str) -> float:
    """The score of the picker's lora-affinity-scorer for one replica."""
    running = set(filter(None, labels["running_lora_adapters"].split(",")))
    waiting = set(filter(None, labels["waiting_lora_adapters"].split(",")))
    if model in running:
        return 1.0
    if len(running) + len(waiting) < int(labels["max_lora"]):
        return 0.8
    return 0.6 if model in waiting else 0.0


async def shown(store: Path, keys: Path, named: bool) -> str:
    """What /metrics tells on the port of questions to who has no key, as the picker has none, after one question."""
    settings = Settings(adapters=str(store), keys=keys, max_loras=2, metrics_named=named)
    async with serving(settings, FakeEngine()) as running:
        asked = {"adapter": "digits", "question": QUESTION, "image": data_url(png())}
        (await running.client.post("/v1/vqa", json=asked, headers=bearer("acme"))).raise_for_status()
        return (await running.client.get("/metrics")).raise_for_status().text


async def test_the_picker_finds_our_queue_and_the_adapters_at_hand(fake_adapters: Path, tmp_path: Path) -> None:
    found = read(await shown(fake_adapters, write(tmp_path / "keys.json", {"acme": {}}), named=True))
    assert found["queuedRequestsSpec"] == found["runningRequestsSpec"] == 0
    assert affinity(found["loraSpec"], "digits") == 1.0
    assert affinity(found["loraSpec"], "shapes") == 0.8


async def test_without_metrics_named_who_has_no_key_reads_no_adapter(fake_adapters: Path, tmp_path: Path) -> None:
    text = await shown(fake_adapters, write(tmp_path / "keys.json", {"acme": {}}), named=False)
    assert "loraSpec" not in read(text)
    assert "digits" not in text


async def test_adapters_that_wait_are_told_and_none_by_its_version(fake_adapters: Path) -> None:
    settings = Settings(adapters=str(fake_adapters), max_loras=1, in_flight=1)
    engine = FakeEngine()
    async with serving(settings, engine) as running:
        metrics = running.app.state.service.metrics

        def labels() -> dict[str, str]:
            return dict(read(metrics.exposition(named=True).decode())["loraSpec"])

        (await ask(running, adapter="digits")).raise_for_status()
        engine.step_s = 0.3
        both = [asyncio.create_task(ask(running, adapter=name)) for name in ("digits", "shapes")]
        await until(lambda: labels()["waiting_lora_adapters"] == "shapes")
        found, engine.step_s = labels(), 0.0
        assert {(await each).status_code for each in both} == {200}
    assert affinity(found, "digits") == 1.0
    assert affinity(found, "shapes") == 0.6
    assert affinity(found, "other") == 0.0
    assert "@" not in found["running_lora_adapters"] + found["waiting_lora_adapters"]
