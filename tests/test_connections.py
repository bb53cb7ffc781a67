"""Connections over a real socket: who keeps the service waiting is closed, who is one too many is told so."""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path
from typing import Any

import pytest

from service.app import create_app
from service.connections import Connection
from service.engine.fake import FakeEngine
from service.settings import Settings
from tests.conftest import CHECKPOINT, Running, listening, png, until
from tests.test_http_edge import QUESTION, data_url

PATIENCE_S = 0.4
MOST = 3
LIMIT = 700_000


@pytest.fixture(params=[{"request_s": PATIENCE_S}])
async def wire(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncGenerator[Running, None]:
    """A service of the base alone that waits 0.4 s for a request."""
    settings, engine = Settings(adapters=tmp_path, body_limit=LIMIT, **request.param), FakeEngine()
    async with listening(create_app(settings, CHECKPOINT, engine), engine) as running:
        yield running


Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect(running: Running) -> Pair:
    return await asyncio.open_connection("127.0.0.1", running.client.base_url.port)


async def exchange(running: Running, pieces: Iterable[bytes], pause_s: float = 0.0, leave: bool = False) -> bytes:
    """All that is answered to `pieces`, until the service closes; with `leave`, the caller does."""
    reader, writer = await connect(running)

    async def send() -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)
        if leave:
            writer.close()

    sending, answer = asyncio.create_task(send()), b""
    try:
        async with asyncio.timeout(20):
            while piece := await reader.read(65_536):
                answer += piece
    except ConnectionResetError:  # what was on its way when the service closed
        pass
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        writer.close()
    return answer


def request(body: bytes = b"", *headers: str, start: str = "POST /v1/vqa") -> bytes:
    lines = [f"{start} HTTP/1.1", "host: here", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def question(**fields: Any) -> bytes:
    return json.dumps({"question": QUESTION, "image": data_url(png())} | fields).encode()


def assert_told(answer: bytes, status: int, code: str) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer[:300]
    assert b"connection: close" in head.lower()
    error = json.loads(body)["error"]
    assert error["code"] == code
    assert error["request_id"].encode() in head


def test_by_default_a_request_has_ten_seconds_to_come() -> None:
    assert Settings.model_fields["request_s"].default == 10.0


HEAD = b"POST /v1/vqa HTTP/1.1\r\nhost: x\r\nx-slow: "
HALF = request(b"x" * 10_000)[:-9_000]


@pytest.mark.parametrize("start", [b"POST /v1/vqa?", HEAD, HALF], ids=["line", "headers", "body"])
async def test_who_drips_a_request_is_closed_in_time_and_others_are_served(wire: Running, start: bytes) -> None:
    def drip() -> Iterable[bytes]:
        yield start
        while True:
            yield b"x"

    began = asyncio.get_running_loop().time()
    dripping = asyncio.create_task(exchange(wire, drip(), 0.02))
    await asyncio.sleep(PATIENCE_S / 4)
    answer = await exchange(wire, [request(question(), "connection: close")])
    assert answer.startswith(b"HTTP/1.1 200")
    assert not dripping.done()
    if told := await dripping:  # nothing where a byte crossed the close
        assert_told(told, 408, "request_too_slow")
    assert PATIENCE_S * 0.9 < asyncio.get_running_loop().time() - began < PATIENCE_S + 2


@pytest.mark.parametrize("start", [b"POST /v1/vqa?", HEAD, HALF], ids=["line", "headers", "body"])
async def test_who_stops_half_way_is_408(wire: Running, start: bytes) -> None:
    assert_told(await exchange(wire, [start]), 408, "request_too_slow")


@pytest.mark.parametrize("pieces", [[], [b"\r\n"] * 1000])
async def test_who_asks_nothing_is_closed_without_a_word(wire: Running, pieces: list[bytes]) -> None:
    began = asyncio.get_running_loop().time()
    assert await exchange(wire, pieces, 0.02) == b""
    assert asyncio.get_running_loop().time() - began < PATIENCE_S + 2


async def test_a_body_that_drips_on_after_its_answer_is_closed(wire: Running) -> None:
    head = request(b"x" * 1000, start="POST /nope")[:-1000]
    answer = await exchange(wire, [head, *[b"x"] * 900], 0.02)
    assert answer.startswith(b"HTTP/1.1 404")
    assert answer.count(b"HTTP/1.1") == 1


async def test_a_large_body_on_a_steady_line_has_the_time_it_needs(wire: Running) -> None:
    body = question(image="A" * 600_000)
    pieces = [request(body, "connection: close")[at : at + 65_536] for at in range(0, len(body) + 1000, 65_536)]
    began = asyncio.get_running_loop().time()
    assert (await exchange(wire, pieces, PATIENCE_S / 4)).startswith(b"HTTP/1.1 415")
    assert asyncio.get_running_loop().time() - began > 2 * PATIENCE_S


async def test_the_time_an_answer_takes_is_not_the_clients_even_with_more_questions_in_line(wire: Running) -> None:
    assert isinstance(wire.engine, FakeEngine)
    wire.engine.step_s = PATIENCE_S
    asked = [request(question()), request(question(), "connection: close")]
    answer = await exchange(wire, [b"".join(asked)])
    assert answer.count(b"HTTP/1.1 200") == 2


async def test_a_connection_is_kept_between_questions(wire: Running) -> None:
    reader, writer = await connect(wire)
    for _ in range(3):
        writer.write(request(start="GET /healthz"))
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
        await asyncio.sleep(PATIENCE_S / 2)
    writer.close()


async def test_a_head_without_end_is_431(wire: Running) -> None:
    pieces = [b"GET / HTTP/1.1\r\n", *(b"x-%d: %s\r\n" % (number, b"y" * 1000) for number in range(2000))]
    assert_told(await exchange(wire, pieces, 0.0001), 431, "head_too_large")


@pytest.mark.parametrize("bytes_", [b"SSH-2.0-OpenSSH_9.2\r\n", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/9\r\n\r\n"])
async def test_what_is_no_http_is_400_in_our_shape(wire: Running, bytes_: bytes) -> None:
    assert_told(await exchange(wire, [bytes_]), 400, "malformed_request")


@pytest.mark.parametrize("wire", [{"connections": MOST}], indirect=True)
async def test_over_the_most_connections_questions_are_503_and_probes_are_answered(wire: Running) -> None:
    older = [await connect(wire) for _ in range(MOST)]
    refused = await exchange(wire, [request(question())])
    assert_told(refused, 503, "overloaded")
    assert b"retry-after: 1" in refused
    assert_told(await exchange(wire, [request(start="GET /v1/adapters")]), 503, "overloaded")
    for probe in ("/healthz", "/readyz", "/metrics"):
        assert (await exchange(wire, [request(start=f"GET {probe}")])).startswith(b"HTTP/1.1 200")
    reader, writer = older[0]
    writer.write(request(question(), "connection: close"))
    assert (await reader.read()).startswith(b"HTTP/1.1 200")
    for _, each in older:
        each.close()
        await each.wait_closed()
    await asyncio.sleep(0.1)
    assert (await exchange(wire, [request(question(), "connection: close")])).startswith(b"HTTP/1.1 200")


async def test_a_length_over_the_limit_is_413_before_any_of_the_body_comes(wire: Running) -> None:
    for more in ("connection: close", "expect: 100-continue"):
        head = request(b"", more).replace(b"content-length: 0", b"content-length: 700001")
        answer = await exchange(wire, [head])
        assert answer.startswith(b"HTTP/1.1 413"), answer
        assert b"body_too_large" in answer


async def test_a_body_without_a_length_is_413_as_soon_as_it_is_over_the_limit(wire: Running) -> None:
    sent = 0

    def chunks() -> Iterable[bytes]:
        nonlocal sent
        yield request(b"", "transfer-encoding: chunked").replace(b"content-length: 0\r\n", b"")
        for _ in range(1000):
            sent += 10_000
            yield b"2710\r\n" + b"x" * 10_000 + b"\r\n"

    reader, writer = await connect(wire)
    answering = asyncio.create_task(reader.readline())
    for chunk in chunks():
        writer.write(chunk)
        await writer.drain()
        await asyncio.wait({answering}, timeout=0.01)
        if answering.done():
            break
    assert (await answering).startswith(b"HTTP/1.1 413")
    assert LIMIT - 100_000 < sent < LIMIT + 100_000
    assert b"body_too_large" in await reader.read()  # and it is closed, though it never ended
    writer.close()


async def test_more_than_the_length_that_was_told_is_no_part_of_the_body(wire: Running) -> None:
    asked = request(question())
    assert await exchange(wire, [asked + b"x" * 100]) == b""
    both = await exchange(wire, [asked + request(start="GET /healthz")])
    assert both.count(b"HTTP/1.1 200") == 2


async def late_reader(port: int, head: bytes, count: int) -> bytes:
    """What is read after all of a body was sent; the connection is blocking, as most clients' are."""

    def send_then_read() -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
            line.sendall(head)
            for _ in range(count):
                line.sendall(bytes(100_000))
            answer = b""
            while piece := line.recv(65_536):
                answer += piece
            return answer

    return await asyncio.to_thread(send_then_read)


@pytest.mark.parametrize("wire", [{"request_s": 10.0}], indirect=True)
@pytest.mark.parametrize(
    ("start", "count", "status"),
    [
        ("POST /nope", 20, 404),
        ("POST /healthz", 20, 405),
        ("POST /v1/vqa", 100, 413),
        ("GET /healthz", 20, 200),
        ("POST /v1/vqa", 3, 400),
    ],
)
async def test_an_answer_before_the_body_came_reaches_who_reads_only_after_sending_it(
    wire: Running, start: str, count: int, status: int
) -> None:
    head = request(b"", "connection: close", start=start)
    head = head.replace(b"content-length: 0", b"content-length: %d" % (count * 100_000))
    for _ in range(8):
        answer = await late_reader(wire.client.base_url.port or 0, head, count)
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:100]


@pytest.mark.parametrize("start", [b"GET / HTTP/9\r\n\r\n", b"GET / HTTP/1.1\r\nx: " + b"y" * 70_000])
async def test_so_does_one_to_what_is_no_http(wire: Running, start: bytes) -> None:
    for _ in range(8):
        assert b"HTTP/1.1 4" in await late_reader(wire.client.base_url.port or 0, start, 10)


async def test_what_is_dropped_behind_an_answer_is_bounded_in_bytes_and_in_seconds(
    wire: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.connections._LINGER_BYTES", 300_000)
    head = request(b"", "connection: close", start="POST /nope")
    head = head.replace(b"content-length: 0", b"content-length: 999999999")
    with pytest.raises(ConnectionError):
        await late_reader(wire.client.base_url.port or 0, head, 1000)
    monkeypatch.setattr(Connection.linger, "__defaults__", (0.2,))
    reader, writer = await connect(wire)
    writer.write(head)
    assert (await reader.read()).startswith(b"HTTP/1.1 404")
    async with asyncio.timeout(2):
        while not writer.transport.is_closing():
            writer.write(b"x")
            await asyncio.sleep(0.02)


async def test_refusals_of_a_connection_are_counted(wire: Running) -> None:
    await exchange(wire, [b"SSH-2.0-OpenSSH_9.2\r\n"])
    await exchange(wire, [HALF])
    text = (await wire.client.get("/metrics")).text
    for code in ("malformed_request", "request_too_slow"):
        assert f'vqa_requests_total{{adapter="",outcome="{code}"}} 1.0' in text


async def test_less_than_the_length_that_was_told_is_a_client_that_left(
    wire: Running, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        assert await exchange(wire, [HALF], 0.05, leave=True) == b""
        (await wire.client.get("/healthz")).raise_for_status()
        await until(lambda: wire.app.state.service.vqa.admission.requests == 0)
    assert caplog.records == []
