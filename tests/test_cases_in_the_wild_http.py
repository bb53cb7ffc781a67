"""What clients, proxies and platforms were seen to send to the HTTP face, with the answers they need."""

import asyncio
import gzip
import json
import socket as sockets
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.app import create_app
from service.engine.fake import FakeEngine
from service.settings import Settings
from tests.conftest import CHECKPOINT, Running, listening, png, serving
from tests.test_auth import bearer, write
from tests.test_http_edge import QUESTION, assert_error, data_url

BODY = {"question": QUESTION, "image": data_url(png())}
POSTS = ("/v1/vqa", "/v1/vqa/batch", "/v1/chat/completions", "/v1/feedback", "/invocations")


# 21: encodings and types


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "zstd", "gzip, gzip"])
@pytest.mark.parametrize("path", POSTS)
async def test_a_compressed_body_is_415_and_its_encoding_is_named(fake: Running, path: str, encoding: str) -> None:
    headers = {"content-encoding": encoding, "content-type": "application/json"}
    response = await fake.client.post(path, content=gzip.compress(json.dumps(BODY).encode()), headers=headers)
    assert response.status_code == 415
    assert response.json()["error"]["code"] == "body_type_refused"
    assert encoding in response.json()["error"]["message"]
    assert response.headers["accept-encoding"] == "identity"


async def test_a_compressed_form_is_415(fake: Running) -> None:
    response = await fake.client.post(
        "/v1/vqa", data={"question": QUESTION}, files={"image": png()}, headers={"content-encoding": "gzip"}
    )
    assert_error(response, 415, "body_type_refused")


@pytest.mark.parametrize("encoding", ["identity", "Identity", ""])
async def test_an_identity_encoding_is_none(fake: Running, encoding: str) -> None:
    (await fake.client.post("/v1/vqa", json=BODY, headers={"content-encoding": encoding})).raise_for_status()


URLENCODED = "application/x-www-form-urlencoded"


@pytest.mark.parametrize("kind", [URLENCODED, "Text/HTML; charset=utf-8", "application/xml", "image/png"])
@pytest.mark.parametrize("path", POSTS)
async def test_a_body_of_another_type_is_415_and_its_type_is_named(fake: Running, path: str, kind: str) -> None:
    response = await fake.client.post(
        path, content=b"question=what+color%3F&adapter=shapes", headers={"content-type": kind}
    )
    assert response.status_code == 415
    assert response.json()["error"]["code"] == "body_type_refused"
    assert kind.partition(";")[0].lower() in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "kind", [None, "application/json; charset=utf-8", "APPLICATION/JSON", "text/plain", "application/vnd.api+json"]
)
async def test_json_under_any_of_its_names_is_json(fake: Running, kind: str | None) -> None:
    headers = {"content-type": kind} if kind else {}
    request = fake.client.build_request("POST", "/v1/vqa", content=json.dumps(BODY).encode(), headers=headers)
    (await fake.client.send(request)).raise_for_status()


async def test_a_byte_order_mark_is_skipped(fake: Running) -> None:
    body = b"\xef\xbb\xbf" + json.dumps(BODY).encode()
    headers = {"content-type": "application/json"}
    (await fake.client.post("/v1/vqa", content=body, headers=headers)).raise_for_status()
    assert_error(await fake.client.post("/v1/vqa", content=body[:4], headers=headers), 400, "malformed_request")


# 22: HEAD, OPTIONS, Allow and a slash


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/health", "/ping", "/metrics", "/v1/models", "/v1/adapters"])
async def test_head_is_get_without_a_body(fake: Running, path: str) -> None:
    got, headed = await fake.client.get(path), await fake.client.head(path)
    assert headed.status_code == got.status_code == 200
    assert headed.content == b""
    assert headed.headers["content-type"] == got.headers["content-type"]
    assert int(headed.headers["content-length"]) > 0


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/vqa", "POST"),
        ("HEAD", "/v1/vqa", "POST"),
        ("POST", "/healthz", "GET, HEAD"),
        ("OPTIONS", "/v1/chat/completions", "POST"),
        ("PATCH", "/v1/adapters/digits", "DELETE, GET, HEAD, PUT"),
        ("POST", "/v1/models", "GET, HEAD"),
    ],
)
async def test_a_405_says_every_method_that_is_allowed(fake: Running, method: str, path: str, allowed: str) -> None:
    response = await fake.client.request(method, path)
    assert (response.status_code, response.headers["allow"]) == (405, allowed)


PREFLIGHT = {"origin": "http://localhost:5173", "access-control-request-method": "POST"}


@pytest.fixture
async def browsed(fake_adapters: Path) -> AsyncGenerator[Running, None]:
    settings = Settings(adapters=fake_adapters, cors_origins=("http://localhost:5173",))
    async with serving(settings, FakeEngine()) as running:
        yield running


async def test_a_page_of_a_named_origin_may_ask_and_read_refusals(browsed: Running) -> None:
    asked = {**PREFLIGHT, "access-control-request-headers": "authorization, content-type"}
    preflight = await browsed.client.options("/v1/chat/completions", headers=asked)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == PREFLIGHT["origin"]
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    for body, status in ((BODY, 200), ({}, 422)):
        response = await browsed.client.post("/v1/vqa", json=body, headers={"origin": PREFLIGHT["origin"]})
        assert response.status_code == status
        assert response.headers["access-control-allow-origin"] == PREFLIGHT["origin"]
        assert "x-request-id" in response.headers["access-control-expose-headers"].lower()


async def test_a_page_of_another_origin_may_not(browsed: Running, fake: Running) -> None:
    for running, origin in ((browsed, "https://evil.example"), (fake, PREFLIGHT["origin"])):
        response = await running.client.options("/v1/chat/completions", headers={**PREFLIGHT, "origin": origin})
        assert response.status_code >= 400
        assert "access-control-allow-origin" not in response.headers


async def test_the_list_of_models_with_a_slash_is_the_list(fake: Running) -> None:
    slashed = await fake.client.get("/v1/models/")
    assert slashed.raise_for_status().json()["data"] == (await fake.client.get("/v1/models")).json()["data"]


# 23: an answer before the body came


def posted(url: str, size: int) -> int:
    """The status that Python's urllib gets, which closes each connection and reads nothing before it has sent all."""
    body = b'{"question":"x","image":"' + b"A" * size + b'"}'
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.mark.parametrize(
    ("path", "size", "status"),
    [
        ("/nope", 200_000, 404),
        ("/nope", 10_000_000, 404),
        ("/healthz", 3_000_000, 405),
        ("/v1/chat/completions", 500_000, 401),
        ("/v1/chat/completions", 8_000_000, 401),
        ("/v1/vqa", 21_000_000, 401),
    ],
)
async def test_an_early_answer_reaches_a_client_that_sends_on(
    keyed: Running, path: str, size: int, status: int
) -> None:
    url = str(keyed.client.base_url.join(path))
    assert [await asyncio.to_thread(posted, url, size) for _ in range(4)] == [status] * 4


async def test_so_does_the_refusal_of_a_body_that_is_too_large(socket: Running) -> None:
    url = str(socket.client.base_url.join("/v1/vqa"))
    assert [await asyncio.to_thread(posted, url, 21_000_000) for _ in range(4)] == [413] * 4


@pytest.fixture
async def keyed(tmp_path: Path) -> AsyncGenerator[Running, None]:
    """A service with keys, behind a socket."""
    engine, keys = FakeEngine(), write(tmp_path / "keys.json", {"acme": {}})
    async with listening(create_app(Settings(adapters=tmp_path, keys=keys), CHECKPOINT, engine), engine) as running:
        yield running


# 34: every refusal is counted


async def counts(running: Running) -> dict[str, float]:
    """`vqa_requests_total` by outcome, the adapters summed up."""
    total: dict[str, float] = {}
    for line in (await running.client.get("/metrics")).text.splitlines():
        if line.startswith("vqa_requests_total{"):
            outcome = line.partition('outcome="')[2].partition('"')[0]
            total[outcome] = total.get(outcome, 0) + float(line.rsplit(" ", 1)[1])
    return total


CHAT = {"model": "shapes", "messages": [{"role": "user", "content": "what?"}]}
REFUSALS: list[tuple[str, str, dict[str, Any]]] = [
    ("invalid_request", "/v1/chat/completions", {"json": {**CHAT, "no_such_field": 1}}),
    ("malformed_request", "/v1/chat/completions", {"content": b"{"}),
    ("text_too_long", "/v1/vqa", {"json": {"question": "x" * 17_000}}),
    ("invalid_request", "/v1/vqa", {"json": {"question": "x", "foo": 1}}),
    ("invalid_request", "/v1/vqa", {"json": {"question": "x", "beams": 2, "stream": True}}),
    ("image_broken", "/v1/vqa", {"json": {"question": "x", "image": "data:image/png;base64,@@@"}}),
    ("invalid_request", "/v1/vqa", {"json": {"question": "  "}}),
    ("adapter_not_found", "/v1/vqa", {"json": {"question": "x", "adapter": "nope"}}),
    ("adapter_not_found", "/v1/vqa", {"json": {"question": "x", "adapter": "nope", "stream": True}}),
    ("body_type_refused", "/v1/vqa", {"content": b"{}", "headers": {"content-type": "text/html"}}),
    ("body_type_refused", "/v1/vqa", {"content": b"{}", "headers": {"content-encoding": "gzip"}}),
    ("body_too_large", "/v1/vqa", {"content": b"{}", "headers": {"content-length": "99999999"}}),
    ("http_error", "/v1/nope", {"json": BODY}),
    ("http_error", "/healthz", {"json": BODY}),
    ("invalid_request", "/v1/vqa/batch", {"json": {"questions": []}}),
    ("invalid_request", "/v1/feedback", {"json": {}}),
    ("question_not_found", "/v1/feedback", {"json": {"id": "vqa-1", "answer": "x"}}),
]


@pytest.mark.parametrize(("outcome", "path", "sent"), REFUSALS)
async def test_a_refusal_is_counted_once(fake: Running, outcome: str, path: str, sent: dict[str, Any]) -> None:
    await fake.client.post("/v1/vqa", json=BODY)
    before = await counts(fake)
    response = await fake.client.post(path, **{**sent, "headers": {"x-request-id": "r", **sent.get("headers", {})}})
    after = await counts(fake)
    grown = {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name)}
    assert grown == {outcome: 1}, response.text


async def test_a_batch_is_counted_by_its_questions(fake: Running) -> None:
    before = await counts(fake)
    questions = [QUESTION, {"question": QUESTION, "adapter": "nope"}, {"question": " "}]
    (await fake.client.post("/v1/vqa/batch", json={"questions": questions})).raise_for_status()
    after = await counts(fake)
    grown = {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name)}
    assert grown == {"ok": 1, "adapter_not_found": 1, "invalid_request": 1}


async def test_probes_of_a_service_that_starts_are_no_outcome_of_a_request(tmp_path: Path) -> None:
    async with serving(Settings(adapters=tmp_path), FakeEngine(), wait=False) as running:
        running.app.state.service.warm.clear()
        before = await counts(running)
        for path in ("/readyz", "/health", "/ping"):
            assert (await running.client.get(path)).status_code in (200, 503)
        assert await counts(running) == before


async def test_what_callers_make_up_becomes_no_outcome(fake: Running) -> None:
    for number in range(20):
        await fake.client.request(f"M{number}", f"/v{number}", content=b"x", headers={"content-type": f"x/{number}"})
    assert set(await counts(fake)) <= {"http_error", "ok", "body_type_refused"}


# Where platforms ask


@pytest.mark.parametrize(
    "body",
    [BODY, {"inputs": BODY}, {"inputs": BODY, "parameters": {"max_tokens": 2}}, {**BODY, "adapter": "digits"}],
)
async def test_sagemaker_asks_at_invocations(fake: Running, body: dict[str, Any]) -> None:
    plain = {**body.get("inputs", body), **body.get("parameters", {})}
    found = (await fake.client.post("/invocations", json=body)).raise_for_status().json()
    assert found["answer"] == (await fake.client.post("/v1/vqa", json=plain)).json()["answer"]


@pytest.mark.parametrize("body", [{"inputs": "x"}, {"inputs": BODY, "more": 1}, {"inputs": BODY, "parameters": 7}, []])
async def test_an_invocation_that_means_nothing_is_422(fake: Running, body: Any) -> None:
    assert_error(await fake.client.post("/invocations", json=body), 422, "invalid_request")


async def test_an_invocation_is_a_form_as_well(fake: Running) -> None:
    files = {"image": ("x.png", png())}
    (await fake.client.post("/invocations", data={"question": QUESTION}, files=files)).raise_for_status()


@pytest.mark.parametrize("left", ["/vqa", ""])
async def test_below_a_prefix_that_the_proxy_strips_or_leaves(fake_adapters: Path, left: str) -> None:
    async with serving(Settings(adapters=fake_adapters, root_path="/vqa"), FakeEngine()) as running:
        (await running.client.post(f"{left}/v1/vqa", json=BODY)).raise_for_status()
        (await running.client.get(f"{left}/readyz")).raise_for_status()
        refused = await running.client.post(f"{left}/v1/chat/completions", content=b"{")
        assert refused.json()["error"]["type"] == "invalid_request_error"
        assert (await running.client.get(f"{left}/v1/vqa")).headers["allow"] == "POST"
        document = (await running.client.get(f"{left}/openapi.json")).json()
        assert document["servers"] == [{"url": "/vqa"}]


# Who is an admin, and who sees the names of adapters


@pytest.mark.parametrize(
    "header",
    [
        {"x-forwarded-for": "203.0.113.9"},
        {"x-forwarded-proto": "https"},
        {"forwarded": "for=203.0.113.9"},
        {"via": "1.1 proxy"},
        {"x-real-ip": "203.0.113.9"},
        {"origin": "https://evil.example"},
    ],
)
async def test_behind_a_proxy_nobody_becomes_an_admin_by_accident(fake: Running, header: dict[str, str]) -> None:
    (await fake.client.post("/v1/adapters/digits/prefetch")).raise_for_status()
    (await fake.client.post("/v1/adapters/digits/prefetch", headers={"origin": "http://test"})).raise_for_status()
    assert_error(await fake.client.post("/v1/adapters/digits/prefetch", headers=header), 403, "forbidden")
    (await fake.client.post("/v1/vqa", json=BODY, headers=header)).raise_for_status()
    assert "digits" in (await fake.client.get("/metrics")).text
    assert "digits" not in (await fake.client.get("/metrics", headers=header)).text


async def test_who_speaks_http_1_0_as_nginx_does_by_default_is_no_admin(fake_adapters: Path) -> None:
    engine = FakeEngine()
    async with listening(create_app(Settings(adapters=fake_adapters), CHECKPOINT, engine), engine) as running:
        for version, status in ((b"1.0", b"403"), (b"1.1", b"200")):
            reader, writer = await asyncio.open_connection("127.0.0.1", running.client.base_url.port)
            head = b"POST /v1/adapters/digits/prefetch HTTP/%b\r\nhost: x\r\nconnection: close\r\n\r\n"
            writer.write(head % version)
            assert (await reader.read()).startswith(b"HTTP/1.1 " + status)
            writer.close()


async def test_metrics_name_adapters_to_an_admin_and_tell_others_their_totals(
    fake_adapters: Path, tmp_path: Path
) -> None:
    keys = write(tmp_path / "keys.json", {"ops": {"admin": True}, "acme": {}})
    async with serving(Settings(adapters=fake_adapters, keys=keys), FakeEngine()) as running:
        for adapter in ("digits", "shapes", "shapes"):
            body = {**BODY, "adapter": adapter}
            (await running.client.post("/v1/vqa", json=body, headers=bearer("acme"))).raise_for_status()
        named = (await running.client.get("/metrics", headers=bearer("ops"))).text
        assert 'vqa_requests_total{adapter="shapes",outcome="ok"} 2.0' in named
        for headers in ({}, bearer("acme"), bearer("nobody")):
            text = (await running.client.get("/metrics", headers=headers)).raise_for_status().text
            assert "digits" not in text
            assert 'vqa_requests_total{outcome="ok"} 3.0' in text
            assert "vqa_adapter_resident 2.0" in text
            assert 'vqa_request_seconds_bucket{le="+Inf"} 3.0' in text
        assert [line for line in text.splitlines() if line.startswith("# TYPE vqa_request_seconds ")] == [
            "# TYPE vqa_request_seconds histogram"
        ]


async def test_metrics_have_a_port_of_their_own_if_asked_for(fake_adapters: Path, free_port: int) -> None:
    settings = Settings(adapters=fake_adapters, metrics_port=free_port)
    async with serving(settings, FakeEngine()) as running, httpx.AsyncClient() as client:
        (await running.client.post("/v1/vqa", json={**BODY, "adapter": "shapes"})).raise_for_status()
        text = (await client.get(f"http://127.0.0.1:{free_port}/metrics")).raise_for_status().text
        assert 'vqa_requests_total{adapter="shapes",outcome="ok"} 1.0' in text
    async with httpx.AsyncClient() as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(f"http://127.0.0.1:{free_port}/metrics")


@pytest.fixture
def free_port() -> int:
    """A port of loopback that nobody has just now."""
    with sockets.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
