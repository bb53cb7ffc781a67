"""The operator's levers over HTTP: versions, aliases, shares, rollback, pins, routers, deletion."""

import asyncio
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest

from loadtest.store.stores import files_of
from service.adapters.store import Store
from service.engine.fake import FakeEngine
from service.settings import Settings
from service.types import Adapter, Query, Question
from tests.conftest import Running, serving
from tests.test_http_edge import ask, assert_error


@pytest.fixture
def store(fake_adapters: Path, tmp_path: Path) -> Store:
    shutil.copytree(fake_adapters, tmp_path / "store")
    return Store(tmp_path / "store")


@pytest.fixture
async def own(store: Store) -> AsyncGenerator[Running, None]:
    """A service over a store that tests may change."""
    async with serving(Settings(adapters=store.root, adapters_poll_s=0.05, max_cpu_loras=3), FakeEngine()) as running:
        yield running


def publish(store: Store, card: str) -> Adapter:
    return store.publish("digits", files_of(store.stable("digits")) | {"README.md": card.encode()})


async def release(running: Running, store: Store, card: str) -> Adapter:
    """Publish, and wait until it serves."""
    adapter = publish(store, card)
    await running.app.state.service.residency.reconcile()
    return adapter


async def show(running: Running, name: str = "digits") -> dict[str, Any]:
    body: dict[str, Any] = (await running.client.get(f"/v1/adapters/{name}")).raise_for_status().json()
    return body


async def change(running: Running, **fields: Any) -> httpx.Response:
    return await running.client.put("/v1/adapters/digits", json=fields)


async def version_of(running: Running, reference: str, **headers: str) -> str:
    fields = {"question": "which digit?", "adapter": reference}
    response = await running.client.post("/v1/vqa", json=fields, headers=headers)
    return str(response.raise_for_status().json()["adapter"]["version"])


async def test_a_published_version_serves_within_the_poll(own: Running, store: Store) -> None:
    new = publish(store, "two")

    async def served() -> None:
        while await version_of(own, "digits") != new.version:  # noqa: ASYNC110 - it is asked over HTTP
            await asyncio.sleep(0.02)

    await asyncio.wait_for(served(), 20)


async def test_the_list_tells_a_canary_s_share_and_when_an_adapter_was_trained(own: Running, store: Store) -> None:
    old = store.stable("digits")
    await release(own, store, "two")
    await version_of(own, "digits")  # what its manifest says is known once it was asked
    (await change(own, alias="canary", version=old.version, weight=0.25)).raise_for_status()
    digits, shapes = (await own.client.get("/v1/adapters")).json()["adapters"]
    assert (digits["weights"], digits["created"][:10]) == ({"canary": 0.25}, "2026-11-21")
    assert (shapes["weights"], shapes["created"]) == ({}, None)


async def test_an_adapter_is_shown_with_versions_aliases_and_facts(own: Running, store: Store) -> None:
    old = store.stable("digits")
    new = await release(own, store, "two")
    changed = (await change(own, alias="canary", version=old.version[:8], weight=0.25)).raise_for_status().json()
    assert changed == await show(own)
    assert changed["aliases"]["canary"] == {
        "version": old.version,
        "weight": 0.25,
        "serving": old.version,
        "previous": [],
    }
    assert changed["aliases"]["stable"]["previous"] == [old.version]
    assert {version["version"] for version in changed["versions"]} == {old.version, new.version}
    assert await version_of(own, "digits@canary") == old.version  # it may have been unloaded before the alias led to it
    shown = next(version for version in (await show(own))["versions"] if version["version"] == old.version)
    assert (shown["state"], shown["loaded"], shown["reason"]) == ("serving", True, None)
    assert shown["manifest"]["score"]["rows"] > 0
    assert "probes" not in shown["manifest"]


async def test_a_request_key_keeps_its_version(own: Running, store: Store) -> None:
    old = store.stable("digits")
    new = await release(own, store, "two")
    (await change(own, alias="canary", version=old.version, weight=0.5)).raise_for_status()
    keys = [{"x-request-key": f"user-{number}"} for number in range(24)]
    once = [await version_of(own, "digits", **key) for key in keys]
    assert [await version_of(own, "digits", **key) for key in keys] == once
    assert set(once) == {old.version, new.version}
    assert await version_of(own, "digits@canary") == old.version


async def test_a_request_key_keeps_its_version_in_batches_and_chats_too(own: Running, store: Store) -> None:
    old = store.stable("digits")
    await release(own, store, "two")
    (await change(own, alias="canary", version=old.version, weight=0.5)).raise_for_status()
    chat = {"model": "digits", "messages": [{"role": "user", "content": "which digit?"}]}
    for number in range(4):
        key = {"x-request-key": f"user-{number}"}
        version = await version_of(own, "digits", **key)
        body = {"questions": ["which digit?", "how many?"] * 4, "adapters": ["digits"]}
        results = (await own.client.post("/v1/vqa/batch", json=body, headers=key)).raise_for_status().json()["results"]
        assert {result["adapter"]["version"] for result in results} == {version}
        said = await own.client.post("/v1/chat/completions", json=chat, headers=key)
        assert said.raise_for_status().json()["system_fingerprint"] == version


async def test_a_stream_under_way_ends_on_its_version_though_it_is_deleted(own: Running, store: Store) -> None:
    old, engine = store.stable("digits"), own.engine
    assert isinstance(engine, FakeEngine)
    engine.step_s = 0.1
    said = own.app.state.service.vqa.stream(Question("streamed", "which digit?", adapter="digits"))
    pieces = [await anext(said)]
    assert (await own.client.delete("/v1/adapters/digits")).status_code == 204
    *more, whole = [part async for part in said]
    assert "".join([*pieces, *more]) == whole.text
    assert whole.adapter == old


async def test_rolling_back_over_http(own: Running, store: Store) -> None:
    old = store.stable("digits")
    await release(own, store, "two")
    rolled = (await own.client.post("/v1/adapters/digits/rollback")).raise_for_status().json()
    assert rolled["aliases"]["stable"]["version"] == old.version
    assert await version_of(own, "digits") == old.version
    assert_error(await own.client.post("/v1/adapters/digits/rollback", json={}), 409, "adapter_refused")


async def test_an_alias_does_not_move_to_what_must_not_serve(own: Running, store: Store) -> None:
    old = store.stable("digits")
    bad = publish(store, "two")
    store.change("digits", lambda aliases: aliases.roll_back("stable"))
    (bad.path / "README.md").write_text("tampered")
    assert_error(await change(own, version=bad.version), 409, "adapter_refused")
    assert (await show(own))["aliases"]["stable"]["version"] == old.version
    shown = next(version for version in (await show(own))["versions"] if version["version"] == bad.version)
    assert (shown["state"], shown["reason"]) == ("refused", "corrupt")


async def test_pinned_prefetched_and_let_go(own: Running) -> None:
    assert (await change(own, pin=True)).raise_for_status().json()["pinned"]
    fetched = (await own.client.post("/v1/adapters/digits/prefetch")).raise_for_status().json()
    assert fetched["versions"][0]["loaded"]
    listed = (await own.client.get("/v1/adapters")).json()["adapters"]
    assert {adapter["name"]: adapter["pinned"] for adapter in listed} == {"digits": True, "shapes": False}
    assert not (await change(own, pin=False)).raise_for_status().json()["pinned"]


async def test_a_deleted_adapter_is_404_and_the_others_answer(own: Running, store: Store) -> None:
    assert (await own.client.delete("/v1/adapters/digits")).status_code == 204
    assert_error(await ask(own, adapter="digits"), 404, "adapter_not_found")
    assert_error(await own.client.get("/v1/adapters/digits"), 404, "adapter_not_found")
    assert_error(await own.client.delete("/v1/adapters/digits"), 404, "adapter_not_found")
    (await ask(own, adapter="shapes")).raise_for_status()
    assert store.names() == ["shapes"]


async def test_one_alias_can_be_taken_away(own: Running, store: Store) -> None:
    (await change(own, alias="canary", version="stable")).raise_for_status()
    assert (await own.client.delete("/v1/adapters/digits?alias=canary")).status_code == 204
    assert_error(await ask(own, adapter="digits@canary"), 404, "adapter_not_found")
    assert_error(await own.client.delete("/v1/adapters/digits?alias=stable"), 422, "invalid_request")


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 422),
        ({"weight": 0.5}, 422),
        ({"alias": "canary", "weight": 0.5}, 404),
        ({"alias": "canary", "version": "stable", "weight": 1.5}, 422),
        ({"alias": "../x", "version": "stable"}, 422),
        ({"version": "nope"}, 404),
        ({"version": "0" * 64}, 404),
        ({"typo": 1}, 422),
    ],
)
async def test_a_change_that_means_nothing_changes_nothing(own: Running, fields: dict[str, Any], status: int) -> None:
    before = await show(own)
    response = await change(own, **fields)
    assert response.status_code == status, response.text
    assert response.json()["error"]["code"]
    assert await show(own) == before


@pytest.mark.parametrize("name", ["nope", "..", "%2e%2e%2fdigits", "~", "A"])
async def test_levers_on_a_name_that_is_not_there_are_404(own: Running, name: str) -> None:
    replies = [
        await own.client.get(f"/v1/adapters/{name}"),
        await own.client.put(f"/v1/adapters/{name}", json={"pin": True}),
        await own.client.post(f"/v1/adapters/{name}/rollback"),
        await own.client.post(f"/v1/adapters/{name}/prefetch"),
        await own.client.delete(f"/v1/adapters/{name}"),
    ]
    assert all(reply.status_code in (404, 405) for reply in replies), [reply.status_code for reply in replies]


async def test_a_router_sends_pictures_to_one_adapter_and_text_to_another(own: Running, store: Store) -> None:
    (Path(store.root) / "any").mkdir()
    (Path(store.root) / "any/router.json").write_text('{"image": "shapes", "text": "digits"}')
    await own.app.state.service.residency.refresh()
    assert (await own.client.get("/v1/adapters")).json()["routers"] == [
        {"name": "any", "image": "shapes", "text": "digits"}
    ]
    answers = [(await ask(own, adapter="any", **fields)).json()["adapter"]["name"] for fields in ({}, {"image": None})]
    assert answers == ["shapes", "digits"]
    assert "any" in [model["id"] for model in (await own.client.get("/v1/models")).json()["data"]]


async def test_a_store_behind_a_url_is_an_option(fake_adapters: Path, tmp_path: Path) -> None:
    source, target = Store(fake_adapters), Store("memory://by-url")
    target.publish("digits", files_of(source.stable("digits")))
    settings = Settings(adapters="memory://by-url", adapters_cache=tmp_path / "cache")
    async with serving(settings, FakeEngine()) as running:
        assert await version_of(running, "digits") == source.stable("digits").version


async def test_the_list_comes_in_pages_that_hold_every_name_once(own: Running, store: Store) -> None:
    for number in range(5):
        shutil.copytree(Path(store.root) / "digits", Path(store.root) / f"copy-{number}")
    (Path(store.root) / "Not-A-Name").mkdir()
    await own.app.state.service.residency.refresh()
    after, names, pages = "", list[str](), 0
    while after is not None:
        page = (await own.client.get("/v1/adapters", params={"limit": 3, "after": after})).raise_for_status().json()
        entries = [*page["adapters"], *page["refused"]]
        assert len(entries) <= 3
        names += [entry["name"] for entry in entries]
        after, pages = page["next"], pages + 1
    assert sorted(names) == sorted([*(f"copy-{number}" for number in range(5)), "digits", "shapes", "Not-A-Name"])
    assert pages == 3
    assert_error(await own.client.get("/v1/adapters?limit=0"), 422, "invalid_request")


async def test_a_start_proves_nothing_twice(store: Store, tmp_path: Path) -> None:
    class Listening(FakeEngine):
        """Remembers what it was asked."""

        def __init__(self) -> None:
            super().__init__()
            self.probes = 0

        def _words(self, query: Query) -> list[str]:
            self.probes += query.id.startswith("probe-")
            return super()._words(query)

    settings = Settings(adapters=store.root, adapters_cache=tmp_path / "cache")
    probes = []
    for _ in range(2):
        async with serving(settings, engine := Listening()) as running:
            (await ask(running, adapter="digits")).raise_for_status()
            probes.append(engine.probes)
    assert probes[0] > 0
    assert probes[1] == 0


async def test_a_service_stops_though_its_engine_stands_still_while_an_adapter_loads(store: Store) -> None:
    class Standing(FakeEngine):
        """Hangs at the next load."""

        stands = asyncio.Event()

        async def load(self, adapter: Adapter) -> None:
            if self.loads:
                self.hang()
                self.stands.set()
            await super().load(adapter)

    async with asyncio.timeout(30):
        async with serving(Settings(adapters=store.root, max_loras=1), engine := Standing()) as running:
            (await ask(running, adapter="digits")).raise_for_status()
            asking = asyncio.create_task(ask(running, adapter="shapes"))
            await engine.stands.wait()
        asking.cancel()
