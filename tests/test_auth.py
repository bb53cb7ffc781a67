"""Keys name tenants, a changed file holds without a restart, and each tenant gets what its entry says and no more."""

import asyncio
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from service import logs
from service.__main__ import main
from service.auth import KeysFault, Tenants
from service.engine.fake import FakeEngine
from service.errors import Unauthorized
from service.settings import Settings
from service.types import ANYONE, Query, Scores, Tenant
from tests.conftest import Running, png, serving
from tests.test_http_edge import assert_error, data_url

ENTRIES: dict[str, dict[str, Any]] = {
    "ops": {"admin": True, "priority": 9},
    "acme": {"adapters": ["dig*"], "rate": "3/hour", "concurrency": 1},
    "other": {},
}


def bearer(tenant: str) -> dict[str, str]:
    return {"authorization": f"Bearer key of {tenant}"}


def write(file: Path, entries: dict[str, dict[str, Any]]) -> Path:
    def digest(name: str) -> str:
        return hashlib.sha256(f"key of {name}".encode()).hexdigest()

    file.write_text(json.dumps({name: {"keys": [digest(name)]} | entry for name, entry in entries.items()}))
    return file


class Listening(FakeEngine):
    """Remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Query] = []

    def generate(self, query: Query) -> Any:
        self.asked.append(query)
        return super().generate(query)

    async def score(self, query: Query) -> Scores:
        self.asked.append(query)
        return await super().score(query)


@pytest.fixture
async def keyed(fake_adapters: Path, tmp_path: Path) -> Any:
    settings = Settings(adapters=fake_adapters, keys=write(tmp_path / "keys.json", ENTRIES))
    async with serving(settings, Listening()) as running:
        yield running


async def ask(running: Running, tenant: str | None = None, **fields: Any) -> Any:
    body = {"question": "what is it?", "image": data_url(png())} | fields
    return await running.client.post("/v1/vqa", json=body, headers=bearer(tenant) if tenant else {})


@pytest.mark.parametrize(
    "headers", [{}, bearer("nobody"), {"authorization": "Basic key of ops"}, {"authorization": "Bearer"}]
)
async def test_without_a_key_that_is_somebodys_nothing_is_answered(keyed: Running, headers: dict[str, str]) -> None:
    posts, gets = ("vqa", "vqa/batch", "chat/completions", "feedback"), ("adapters", "models", "models/digits")
    for method, path in [("POST", f"/v1/{path}") for path in posts] + [("GET", f"/v1/{path}") for path in gets]:
        response = await keyed.client.request(method, path, headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (401, "unauthorized")
        assert response.headers["www-authenticate"] == "Bearer"
    for open_to_all in ("/healthz", "/readyz", "/metrics", "/docs"):
        assert (await keyed.client.get(open_to_all, headers=headers)).status_code == 200
    assert 'outcome="unauthorized"} 7.0' in (await keyed.client.get("/metrics")).text


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "evil.example", "a b", "[::1", "", "x" * 5000, "test@evil"])
async def test_a_host_header_opens_nothing_and_shuts_nothing(keyed: Running, host: str) -> None:
    body = {"question": "what is it?"}
    for tenant, status in ((None, 401), ("ops", 200)):
        headers = {"host": host, "x-forwarded-for": "127.0.0.1"} | (bearer(tenant) if tenant else {})
        assert (await keyed.client.post("/v1/vqa", json=body, headers=headers)).status_code == status


async def test_a_key_is_asked_for_before_the_body_is_judged(keyed: Running) -> None:
    assert_error(await keyed.client.post("/v1/vqa", content=b"{"), 401, "unauthorized")


async def test_what_a_tenant_may_not_see_is_not_there(keyed: Running) -> None:
    for tenant, seen in (("acme", ["digits"]), ("other", ["digits", "shapes"])):
        listed = (await keyed.client.get("/v1/adapters", headers=bearer(tenant))).json()["adapters"]
        assert [adapter["name"] for adapter in listed] == seen
    (await ask(keyed, "acme", adapter="digits")).raise_for_status()
    assert_error(await ask(keyed, "acme", adapter="shapes@stable"), 404, "adapter_not_found")


async def test_an_unseen_adapter_and_an_unknown_one_read_the_same_and_list_nothing(keyed: Running) -> None:
    unseen, unknown = [
        assert_error(await ask(keyed, "acme", adapter=a), 404, "adapter_not_found") for a in ("shapes", "dig-x")
    ]
    assert unseen.replace("shapes", "dig-x") == unknown


async def test_a_rate_is_its_tenants_own(keyed: Running) -> None:
    answers = [await ask(keyed, "acme", adapter="digits") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert_error(answers[-1], 429, "limit_reached")
    assert 0 < int(answers[-1].headers["retry-after"]) <= 7200
    (await ask(keyed, "other")).raise_for_status()


async def test_priority_is_for_whom_the_file_grants_it(keyed: Running) -> None:
    (await ask(keyed, "ops", priority=9)).raise_for_status()
    assert_error(await ask(keyed, "other", priority=1), 403, "forbidden")
    assert_error(await ask(keyed, "ops", priority=10), 422, "invalid_request")


LEVERS = [("PUT", ""), ("POST", "/rollback"), ("POST", "/prefetch"), ("DELETE", "")]


@pytest.mark.parametrize(("method", "lever"), LEVERS)
async def test_the_operators_levers_need_an_admins_key(keyed: Running, method: str, lever: str) -> None:
    path = f"/v1/adapters/digits{lever}"
    assert_error(await keyed.client.request(method, path), 401, "unauthorized")
    assert_error(await keyed.client.request(method, path, headers=bearer("other")), 403, "forbidden")


async def test_an_admin_may_pull_them(keyed: Running) -> None:
    response = await keyed.client.post("/v1/adapters/digits/prefetch", headers=bearer("ops"))
    assert response.raise_for_status().json()["name"] == "digits"


async def test_an_adapter_that_is_not_seen_is_not_shown_and_has_no_levers(fake_adapters: Path, tmp_path: Path) -> None:
    keys = write(tmp_path / "keys.json", {"acme": {"adapters": ["dig*"], "admin": True}})
    async with serving(Settings(adapters=fake_adapters, keys=keys), FakeEngine()) as running:
        for method, lever in [("GET", ""), *LEVERS]:
            unseen, unknown = [
                assert_error(
                    await running.client.request(
                        method,
                        f"/v1/adapters/{name}{lever}",
                        json={"pin": True} if method == "PUT" else None,
                        headers=bearer("acme"),
                    ),
                    404,
                    "adapter_not_found",
                )
                for name in ("shapes", "dig-x")
            ]
            assert unseen.replace("shapes", "dig-x") == unknown
        shown = await running.client.get("/v1/adapters/digits", headers=bearer("acme"))
        assert shown.raise_for_status().json()["name"] == "digits"


async def test_a_router_leads_a_tenant_only_where_it_may_go(fake_adapters: Path, tmp_path: Path) -> None:
    shutil.copytree(fake_adapters, store := tmp_path / "store")
    (store / "any").mkdir()
    (store / "any/router.json").write_text('{"image": "shapes@stable", "text": "digits"}')
    keys = write(tmp_path / "keys.json", {"half": {"adapters": ["any", "digits"]}, "none": {"adapters": ["digits"]}})
    async with serving(Settings(adapters=str(store), keys=keys), FakeEngine()) as running:
        listed = [
            (await running.client.get("/v1/adapters", headers=bearer(tenant))).json()["routers"]
            for tenant in ("half", "none")
        ]
        assert listed == [[{"name": "any", "image": None, "text": "digits"}], []]
        assert (await ask(running, "half", adapter="any", image=None)).json()["adapter"]["name"] == "digits"
        assert "'any'" in assert_error(await ask(running, "half", adapter="any"), 404, "adapter_not_found")
        assert_error(await ask(running, "none", adapter="any", image=None), 404, "adapter_not_found")


async def test_the_engine_keeps_what_it_remembers_apart_by_tenant(keyed: Running) -> None:
    engine = keyed.engine
    assert isinstance(engine, Listening)
    engine.asked.clear()
    for tenant in ("ops", "other", "other"):
        (await ask(keyed, tenant)).raise_for_status()
    (await ask(keyed, "ops", stream=True)).raise_for_status()
    for path, body in (
        ("vqa/batch", {"questions": ["what?", {"question": "is it?", "choices": ["yes", "no"]}]}),
        ("chat/completions", {"model": "digits", "messages": [{"role": "user", "content": "what?"}]}),
    ):
        (await keyed.client.post(f"/v1/{path}", json=body, headers=bearer("other"))).raise_for_status()
    assert [query.scope for query in engine.asked if not query.id.startswith("probe-")] == [
        "ops",
        "other",
        "other",
        "ops",
        "other",
        "other",
        "other",
    ]


async def test_each_question_of_a_batch_keeps_to_what_its_tenant_may(keyed: Running) -> None:
    questions = [
        {"question": "what?", "adapter": "digits"},
        {"question": "what?", "adapter": "shapes"},
        {"question": "what?", "priority": 1},
    ]
    response = await keyed.client.post("/v1/vqa/batch", json={"questions": questions}, headers=bearer("acme"))
    codes = [result.get("error", {}).get("code") for result in response.json()["results"]]
    assert codes == [None, "adapter_not_found", "forbidden"]


async def test_a_change_of_the_file_holds_without_a_restart_and_a_bad_one_changes_nothing(tmp_path: Path) -> None:
    file = write(tmp_path / "keys.json", {"old": {}})
    tenants = Tenants(file, ANYONE)
    write(file, {"new": {"priority": 3}})
    tenants.refresh()
    assert await tenants.admit(tenants.holder("key of new")) == Tenant("new", admin=False, priority=3)
    with pytest.raises(Unauthorized):
        await tenants.admit(tenants.holder("key of old"))
    for bad in ("{", '{"new": {"keys": ["not a digest"]}}'):
        file.write_text(bad)
        tenants.refresh()
        assert (await tenants.admit(tenants.holder("key of new"))).name == "new"
    file.unlink()
    tenants.refresh()
    assert (await tenants.admit(tenants.holder("key of new"))).name == "new"


async def test_a_running_service_follows_its_file(
    fake_adapters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.auth.POLL_S", 0.01)
    file = write(tmp_path / "keys.json", {"old": {}})
    async with serving(Settings(adapters=fake_adapters, keys=file), FakeEngine()) as running:
        assert (await ask(running, "old")).status_code == 200
        write(file, {"newer": {}})
        for _ in range(1000):
            if (await ask(running, "newer")).status_code == 200:
                break
            await asyncio.sleep(0.01)
        assert (await ask(running, "old")).status_code == 401


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        ({"keys": ["short"]}, "keys"),
        ({"rate": "often"}, "rate"),
        ({"concurrency": 0}, "concurrency"),
        ({"priority": 10}, "priority"),
        ({"admim": True}, "admim"),
    ],
)
def test_a_file_that_means_nothing_ends_the_start_and_is_named(
    entry: dict[str, Any],
    word: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logs, "configure", lambda *_: None)
    file = write(tmp_path / "keys.json", {"acme": entry})
    with pytest.raises(KeysFault, match=word):
        Tenants(file, ANYONE)
    assert main(["--keys", str(file)]) == 2
    assert f"VQA_KEYS): {file}: acme.{word}" in capsys.readouterr().err


def test_one_key_for_two_tenants_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "keys.json", {"a": {}})
    entry = json.loads(file.read_text())["a"]
    file.write_text(json.dumps({"a": entry, "b": entry}))
    with pytest.raises(KeysFault, match="twice"):
        Tenants(file, ANYONE)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.com"])
def test_where_others_reach_it_keys_are_a_must_unless_told_otherwise(
    host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--host", host]) == 2
    assert f"option keys (VQA_KEYS): Value error, others can reach {host}" in capsys.readouterr().err
    assert Settings(host=host, anonymous=True).keys is None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_on_loopback_keys_are_not_needed(host: str) -> None:
    assert Settings(host=host).keys is None


async def test_without_keys_everybody_may_ask_but_only_this_machine_administers(fake_adapters: Path) -> None:
    for settings, admin in (
        (Settings(adapters=fake_adapters), True),
        (Settings(adapters=fake_adapters, host="0.0.0.0", anonymous=True), False),
    ):
        async with serving(settings, FakeEngine()) as running:
            (await ask(running, adapter="digits", priority=9)).raise_for_status()
            assert running.app.state.service.tenants.holder(None).admin is admin
