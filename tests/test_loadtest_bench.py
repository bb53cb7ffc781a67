"""The side-by-side harness: clients in a closed loop, requests as each server takes them, goals, and one real case."""

import asyncio
import base64
import json
from email import message_from_bytes
from pathlib import Path

import pytest

from loadtest import faces, pictures
from loadtest.bench.__main__ import main
from loadtest.bench.cases import Goal, cases
from loadtest.bench.results import Figures, figures, reached, told
from loadtest.client import Window, keep_asking
from tests.conftest import Running


async def test_what_ends_in_the_warm_time_does_not_count_and_a_unit_lasts_until_its_last_answer() -> None:
    waits = iter([0.0, 0.2] * 1000)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"}"):
            await asyncio.sleep(next(waits))
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url, edges = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", list[str]()
        unit = faces.vqa(None) + faces.vqa(None)
        window = await asyncio.to_thread(keep_asking, url, 1, lambda: unit, 0.5, 1.0, lambda: edges.append("edge"))
    assert len(edges) == 2
    assert 2 <= len(window.took) <= 5
    assert window.statuses == [200] * (2 * len(window.took))
    assert min(window.took) >= 0.2


async def test_requests_are_what_our_service_takes(fake: Running) -> None:
    for unit in (
        faces.vqa(pictures.small(1), "shapes"),
        faces.form(pictures.small(2), "shapes"),
        faces.batch(pictures.small(3), ["what?", "which?"]),
        faces.chat(pictures.small(4), "shapes"),
        faces.vqa(None),
    ):
        for content in unit:
            head, _, body = content.partition(b"\r\n\r\n")
            first, _, rest = head.partition(b"\r\n")
            headers = dict(message_from_bytes(rest + b"\r\n\r\n").items())
            reply = await fake.client.post(first.split()[1].decode(), content=body, headers=headers)
            assert reply.status_code == 200, reply.text
            assert all(faces.answers(reply.content))


def test_no_picture_is_asked_about_twice_and_all_are_pictures() -> None:
    assert len({pictures.small(number) for number in range(1000)}) == 1000
    assert len({pictures.photo(number) for number in range(5)}) == 5
    assert base64.b64decode(json.loads(faces.vqa(pictures.small(1))[0].split(b"\r\n\r\n")[1])["image"].split(",")[1])


def test_an_error_is_no_answer() -> None:
    with pytest.raises(ValueError, match="overloaded"):
        faces.answers(b'{"error": {"code": "overloaded"}}')


def test_a_goal_is_the_median_of_the_rounds_ratios() -> None:
    rounds = [
        {"a": figures(Window([0.1] * count, [200] * count, 1.0), 0.5), "b": figures(Window([0.2] * 10, [], 1.0), 0.5)}
        for count in (5, 12, 30)
    ]
    found = reached(Goal("a", "b", least=1.0), rounds)
    assert (found["median"], found["spread"], found["reached"]) == (1.2, [0.5, 3.0], True)
    assert not reached(Goal("a", "b", least=1.3), rounds)["reached"]
    assert "MISSED" in told(reached(Goal("a", "b", "p95_ms", most=0.4), rounds))
    assert "reached" in told(reached(Goal("a", "b", "p95_ms", most=0.5), rounds))
    assert rounds[0]["a"]["cpu_ms"] == 100.0


def test_a_round_in_which_the_other_answered_nothing_shows_nothing() -> None:
    def a_round(ours: int, theirs: int) -> dict[str, Figures]:
        return {name: figures(Window([0.1] * count, [], 1.0), 0.5) for name, count in (("a", ours), ("b", theirs))}

    found = reached(Goal("a", "b", least=1.0), [a_round(10, 5), a_round(10, 0), a_round(0, 5)])
    assert (found["median"], found["spread"]) == (1.0, [0.0, 2.0])
    assert not reached(Goal("a", "b", least=1.0), [a_round(10, 0)])["reached"]
    assert not reached(Goal("a", "b", "p95_ms", most=1.0), [a_round(10, 0), a_round(0, 5)])["reached"]


def test_every_side_of_a_goal_is_asked_in_its_case() -> None:
    for case in cases("base"):
        assert {name for goal in case.goals for name in (goal.of, goal.over)} <= {side.name for side in case.sides}


def test_a_case_that_there_is_not_is_named_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--case", '["small-3"]']) == 2
    assert "there is no small-3: there are small-1" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.timeout(1800)
def test_every_case_runs_with_every_server_for_real(tmp_path: Path) -> None:
    output = tmp_path / "bench.jsonl"
    main(["--rounds", "1", "--seconds", "1", "--warm-s", "0.5", "--output", str(output), "--port", "8450"])
    lines = {line["case"]: line for line in map(json.loads, output.read_text().splitlines())}
    assert list(lines) == [*(case.name for case in cases("")), "gateway"]
    for line in lines.values():
        assert not line.get("errors")
        assert all(figures["p50_ms"] > 0 for figures in line["sides"].values())
    assert lines["adapters"]["answers_alike"] == "8 of 8"
    assert lines["handwritten"]["answers_alike"] == "8 of 8"
