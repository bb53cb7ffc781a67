"""A request is one span with a child for each hop, in its caller's trace; no attribute is a caller's words."""

import json
import logging
from collections.abc import Generator
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from service import logs, tracing
from service.__main__ import main
from service.engine.fake import FakeEngine
from service.settings import Settings
from tests.conftest import Running, png, serving
from tests.origins import answer, origin
from tests.test_http_edge import ask

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HOPS = ["admission", "decode", "engine first token", "engine decode"]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Generator[InMemorySpanExporter, None, None]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    for user in ("service.tracing", "service.middleware"):
        monkeypatch.setattr(f"{user}.tracer", provider.get_tracer("test"))
    yield exporter
    provider.shutdown()


def of_request(spans: InMemorySpanExporter) -> tuple[ReadableSpan, list[ReadableSpan]]:
    """The request's own span, and its hops in the order in which they began."""
    *hops, request = sorted(spans.get_finished_spans(), key=lambda span: span.end_time or 0)
    return request, sorted(hops, key=lambda span: span.start_time or 0)


async def test_a_question_is_a_span_with_its_hops_in_the_callers_trace(
    fake: Running, spans: InMemorySpanExporter
) -> None:
    fake.client.headers["traceparent"] = f"00-{TRACE}-{PARENT}-01"
    (await ask(fake, adapter="digits")).raise_for_status()
    request, hops = of_request(spans)
    assert request.name == "POST /v1/vqa"
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == PARENT
    assert [hop.name for hop in hops] == HOPS
    assert request.context is not None
    for hop in hops:
        assert hop.context is not None
        assert f"{hop.context.trace_id:032x}" == TRACE
        assert hop.parent is not None
        assert hop.parent.span_id == request.context.span_id
        assert hop.status.status_code is StatusCode.UNSET
    assert request.attributes is not None
    assert request.attributes["vqa.adapter"] == "digits"
    assert request.attributes["vqa.outcome"] == "ok"
    assert request.attributes["http.response.status_code"] == 200


async def test_fetching_is_a_hop_of_its_own(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    async with (
        origin() as web,
        serving(Settings(adapters=tmp_path, image_url_private=True), FakeEngine()) as cluster,
    ):
        web.paths = {"/cat.png": answer(200, png()), "/ill": answer(500, b"")}
        (await ask(cluster, image=web.url("/cat.png"))).raise_for_status()
        assert [hop.name for hop in of_request(spans)[1]] == [
            "admission",
            "fetch",
            *HOPS,
        ]  # a fetch has a queue of its own
        spans.clear()
        assert (await ask(cluster, image=web.url("/ill"))).status_code == 502
    request, hops = of_request(spans)
    assert [hop.name for hop in hops] == ["admission", "fetch"]
    assert hops[-1].status.description == "fetch_failed"
    assert request.status.status_code is StatusCode.ERROR


async def test_what_a_caller_writes_is_on_no_span(fake: Running, spans: InMemorySpanExporter) -> None:
    await ask(fake, question="a private matter", adapter="no-such-adapter")
    await fake.client.request("BREW", "/v1/anything-at-all")
    for path in ("/healthz", "/metrics", "/nope"):
        await fake.client.get(path)
    finished = spans.get_finished_spans()
    assert {span.name for span in finished} == {"POST /v1/vqa", "_OTHER"}
    told = json.dumps([[span.name, span.status.description, dict(span.attributes or {})] for span in finished])
    for word in ("private", "no-such-adapter", "anything", "BREW"):
        assert word not in told


async def test_a_deadline_shows_in_the_hop_it_struck(fake_adapters: Path, spans: InMemorySpanExporter) -> None:
    engine = FakeEngine()
    async with serving(Settings(adapters=fake_adapters), engine) as slow:
        engine.step_s = 5.0
        assert (await ask(slow, deadline_s=0.3)).status_code == 504
    assert [hop.status.is_ok for hop in of_request(spans)[1]] == [True, True, False]


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Generator[pytest.CaptureFixture[str], None, None]:
    """What is printed, with logging put back as it was."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield capsys
    root.handlers[:], root.level = before, level


async def test_json_lines_carry_the_request_and_its_trace(
    fake: Running, lines: pytest.CaptureFixture[str], spans: InMemorySpanExporter
) -> None:
    logs.configure("info", "json")
    logging.getLogger("service.progress").setLevel("INFO")
    headers = {"x-request-id": "abc-123", "traceparent": f"00-{TRACE}-{PARENT}-01"}
    await fake.client.post("/v1/vqa", json={"question": "a\nprivate matter", "adapter": "digits"}, headers=headers)
    logging.getLogger("service.test").info("of no request")
    told = [json.loads(line) for line in lines.readouterr().err.splitlines() if '"service.' in line]
    by_logger = {line["logger"]: line for line in told}
    first, last = by_logger["service.progress"], by_logger["service.test"]
    assert (
        first.items()
        >= {
            "level": "INFO",
            "logger": "service.progress",
            "request_id": "abc-123",
            "trace_id": TRACE,
            "outcome": "ok",
            "adapter": "digits",
        }.items()
    )
    assert "timestamp" in first
    assert "private" not in json.dumps(first)
    assert "request_id" not in last


async def test_text_lines_name_the_request(fake: Running, lines: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "text")
    await fake.client.post("/v1/vqa", json={"question": "what?"}, headers={"x-request-id": "abc-123"})
    assert "-abc-123: ok through the base in" in lines.readouterr().err


def test_an_exporter_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(url: str) -> None:
        raise ModuleNotFoundError("No module named 'opentelemetry.sdk'")

    monkeypatch.setattr(tracing, "export", missing)
    monkeypatch.setattr(logs, "configure", lambda *_: None)
    assert main(["--otlp", "http://collector:4318/v1/traces"]) == 2
    assert "VQA_OTLP" in capsys.readouterr().err
