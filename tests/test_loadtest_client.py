"""The load client charges a stall to everyone who was due in it, and keeps each request's outcome."""

import asyncio
import time

import httpx

from loadtest.client import Due, Reply, encode, percentile, send_all

ASKED = encode(httpx.Request("POST", "http://127.0.0.1/v1/vqa", json={"question": "what?"}))


async def test_who_is_due_while_the_service_stalls_is_charged_for_it() -> None:
    stalls = [0.4]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"}"):
            time.sleep(stalls.pop() if stalls else 0)  # noqa: ASYNC251 - all of the service stands still
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        due = [Due(number / 10, str(number), ASKED) for number in range(4)]
        sent = await asyncio.to_thread(send_all, url, due)
    assert [(each.flow, each.status) for each in sent] == [(str(number), 200) for number in range(4)]
    assert all(each.seconds >= 0.4 - number / 10 for number, each in enumerate(sent))


async def test_a_service_that_hangs_up_is_an_outcome_and_no_latency() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        (sent,) = await asyncio.to_thread(send_all, url, [Due(0.0, "a", ASKED)])
    assert (sent.flow, sent.status) == ("a", 0)


def test_an_error_within_an_answer_is_no_success() -> None:
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    assert Reply(head, b'{"results": [{"answer": "red"}]}').status == 200
    assert Reply(head, b'{"results": [{"answer": "red"}, {"error": {"code": "overloaded"}}]}').status == 207
    assert Reply(head, b'event: error\ndata: {"error":{"code": "engine_unavailable"}}').status == 207


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [float(number) for number in range(1, 101)]
    assert (percentile(values, 50), percentile(values, 99), percentile(values, 100)) == (50.0, 99.0, 100.0)
