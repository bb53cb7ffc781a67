"""Both versions of a canary judged online, over HTTP: feedback, questions, times; and changes that come between."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from service.adapters.store import Store
from service.engine.fake import FakeEngine
from service.settings import Settings
from service.types import Adapter
from tests.conftest import Running, serving
from tests.test_auth import bearer, write
from tests.test_http_adapters import change, publish, show, store
from tests.test_http_edge import assert_error

__all__ = ["store"]


@pytest.fixture
async def judged(store: Store, tmp_path: Path) -> AsyncGenerator[Running, None]:
    """A service that keeps questions, over a store that tests may change."""
    settings = Settings(adapters=store.root, adapters_poll_s=0.05, capture=tmp_path / "kept")
    async with serving(settings, FakeEngine()) as running:
        yield running


async def canary(running: Running, store: Store) -> tuple[Adapter, Adapter]:
    """The stable version, and the one before it as a canary with a tenth of the questions."""
    old, new = store.stable("digits"), publish(store, "two")
    await running.app.state.service.residency.reconcile()
    (await change(running, alias="canary", version=old.version, weight=0.1)).raise_for_status()
    return new, old


async def ask(running: Running, reference: str, right: bool) -> None:
    """Ask, and say whether the answer was right."""
    fields = {"question": "which digit?", "adapter": reference}
    said = (await running.client.post("/v1/vqa", json=fields)).raise_for_status().json()
    feedback = {"id": said["id"], "answer": said["answer"] if right else "another"}
    (await running.client.post("/v1/feedback", json=feedback)).raise_for_status()


async def online(running: Running) -> dict[str, Any]:
    return {each["version"]: each["online"] for each in (await show(running))["versions"]}


async def test_each_version_is_judged_by_feedback_questions_and_times(judged: Running, store: Store) -> None:
    stable, other = await canary(judged, store)
    for right in (True, True, False):
        await ask(judged, "digits@stable", right)
    await ask(judged, "digits@canary", False)
    await ask(judged, f"digits@{other.version}", True)  # asked by its digest: no caller's choice, and not counted
    found = await online(judged)
    told = found[stable.version]
    assert (told["right"], told["wrong"], told["answered"], told["failed"]) == (2, 1, 3, 0)
    assert told["agreement"] == pytest.approx(2 / 3)
    assert told["interval"] == pytest.approx([0.2077, 0.9385], abs=1e-3)
    assert 0 < told["p50_s"] <= told["p95_s"]
    assert sum(told["seconds"].values()) == 3
    assert (found[other.version]["right"], found[other.version]["wrong"]) == (0, 1)


async def test_figures_begin_anew_when_a_share_changes(judged: Running, store: Store) -> None:
    await canary(judged, store)
    await ask(judged, "digits@canary", True)
    before = await show(judged)
    (await change(judged, alias="canary", weight=0.1)).raise_for_status()
    assert (await show(judged)) == before, "nothing changed, so nothing begins anew"
    (await change(judged, alias="canary", weight=0.2)).raise_for_status()
    assert set((await online(judged)).values()) == {None}
    assert (await show(judged))["since"] > before["since"]


async def test_feedback_is_the_same_after_a_restart_and_in_another_replica(
    judged: Running, store: Store, tmp_path: Path
) -> None:
    stable, _ = await canary(judged, store)
    await ask(judged, "digits@stable", True)
    settings = Settings(adapters=store.root, capture=tmp_path / "kept", adapters_cache=tmp_path / "cache")
    async with serving(settings, FakeEngine()) as other:
        told = (await online(other))[stable.version]
        assert (told["right"], told["answered"]) == (1, 0), "feedback is kept, questions are each replica's own"
        await ask(judged, "digits@stable", False)
        assert (await online(other))[stable.version]["wrong"] == 1
        one, two = await show(judged), await show(other)
        assert (one["since"], one["kept_in"]) == (two["since"], two["kept_in"])
        assert one["kept_in"] is not None


async def test_a_directory_that_cannot_be_read_takes_feedback_alone(
    judged: Running, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    stable, _ = await canary(judged, store)
    await ask(judged, "digits@stable", True)

    def fail() -> None:
        raise PermissionError("away")

    monkeypatch.setattr(judged.app.state.service.vqa.capture.judged, "refresh", fail)
    detail = await show(judged)
    told = next(each["online"] for each in detail["versions"] if each["version"] == stable.version)
    assert (detail["kept_in"], told["right"], told["answered"]) == (None, 0, 1)


async def test_metrics_tell_it_by_version_of_what_is_loaded(judged: Running, store: Store) -> None:
    stable, other = await canary(judged, store)
    await ask(judged, "digits@stable", True)
    text = judged.app.state.service.metrics.exposition(named=True).decode()
    version = f'version="{stable.version}"'
    assert f'vqa_version_requests_total{{adapter="digits",outcome="ok",{version}}} 1.0' in text
    assert f'vqa_version_feedback{{adapter="digits",verdict="right",{version}}} 1.0' in text
    assert f'vqa_version_request_seconds{{adapter="digits",quantile="0.95",{version}}}' in text
    assert f'vqa_version_request_seconds_count{{adapter="digits",{version}}} 1.0' in text
    named = {line for line in text.splitlines() if line.startswith("vqa_version") and other.version in line}
    assert not any(not line.endswith(" 0.0") for line in named), "nobody asked it"
    assert "shapes" not in "".join(line for line in text.splitlines() if line.startswith("vqa_version"))
    assert stable.version not in judged.app.state.service.metrics.exposition(named=False).decode()


async def test_admins_alone_see_how_versions_do(store: Store, tmp_path: Path) -> None:
    keys = write(tmp_path / "keys.json", {"boss": {"admin": True}, "one": {}})
    async with serving(Settings(adapters=store.root, keys=keys), FakeEngine()) as running:
        fields = {"question": "which digit?", "adapter": "digits"}
        (await running.client.post("/v1/vqa", json=fields, headers=bearer("one"))).raise_for_status()
        told = [
            (await running.client.get("/v1/adapters/digits", headers=bearer(key))).json()["versions"][0]["online"]
            for key in ("boss", "one")
        ]
    assert told[0]["answered"] == 1
    assert told[1] is None


async def test_a_change_may_be_bound_to_the_aliases_that_were_seen(judged: Running, store: Store) -> None:
    stable, other = await canary(judged, store)
    seen = (await judged.client.get("/v1/adapters/digits")).headers["etag"]
    (await change(judged, alias="canary", weight=0.2)).raise_for_status()
    url, headers = "/v1/adapters/digits", {"if-match": seen}
    for refused in (
        judged.client.put(url, json={"version": other.version}, headers=headers),
        judged.client.put(url, json={"pin": True}, headers=headers),
        judged.client.post(f"{url}/rollback", json={}, headers=headers),
        judged.client.delete(url, params={"alias": "canary"}, headers=headers),
        judged.client.delete(url, headers=headers),
    ):
        assert "changed meanwhile" in assert_error(await refused, 412, "aliases_changed")
    assert (await show(judged))["aliases"]["stable"]["version"] == stable.version
    now = (await judged.client.get(url)).headers["etag"]
    bound = {"if-match": f'"abc", {now}'}
    done = await judged.client.put(url, json={"version": other.version, "pin": True}, headers=bound)
    assert done.raise_for_status().json()["pinned"] is True
    assert done.headers["etag"] != now
    (await judged.client.put(url, json={"pin": False}, headers={"if-match": "*"})).raise_for_status()
