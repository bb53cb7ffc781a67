"""`data caption` and `data questions`: rows that a vision model writes, through endpoints that fail as real ones do."""

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Running, png
from trainer.__main__ import main
from trainer.config.data import CaptionOptions, QuestionOptions
from trainer.data import endpoint as asking
from trainer.data.curation.agreement import agreed
from trainer.data.curation.written import caption, questions
from trainer.data.endpoint import Pace
from trainer.data.row import Row
from trainer.data.rows import read_rows
from trainer.errors import OptionError

Reply = Callable[[dict[str, Any]], httpx.Response]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.png", "sub/c.png", "d.png")):
        (folder / name).write_bytes(png(("red", "green", "blue", "black")[number]))
    return folder


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """No wait between two tries."""
    monkeypatch.setattr(asking, "sleep", lambda _: None)


class Writer:
    """An endpoint without a socket: what it was asked, and a reply to each."""

    def __init__(self, reply: Reply) -> None:
        self.bodies: list[dict[str, Any]] = []
        self._reply = reply
        self._lock = threading.Lock()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        with self._lock:
            self.bodies.append(body)
            return self._reply(body)

    @property
    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self)


def said(text: str, finish: str = "stop") -> httpx.Response:
    choice = {"message": {"content": text}, "finish_reason": finish}
    return httpx.Response(200, json={"choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": 10}})


def options(pictures: Path, **more: Any) -> dict[str, Any]:
    output = str(pictures.parent / "out.jsonl")
    return {"images": str(pictures), "output": output, "url": "http://writer/v1", "model": "m", "at_once": 2, **more}


def rows(pictures: Path) -> list[Row]:
    return read_rows(pictures.parent / "out.jsonl", pictures)


def test_every_picture_gets_a_caption(pictures: Path) -> None:
    writer = Writer(lambda _: said(" A disc. "))
    told = caption(CaptionOptions(**options(pictures)), writer.transport)
    assert [(row.id, row.question, row.answer) for row in rows(pictures)] == [
        (f"{name}#0", "Describe the picture.", "A disc.") for name in ("a.png", "b.png", "d.png", "sub/c.png")
    ]
    content = writer.bodies[0]["messages"][0]["content"]
    assert content[0]["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert content[1]["text"] == "Describe this picture in one or two sentences."
    assert "4 requests, 400 tokens in and 40 back" in told


def test_what_was_answered_is_not_asked_again(pictures: Path) -> None:
    count = 0

    def dies(_: dict[str, Any]) -> httpx.Response:
        nonlocal count
        count += 1
        return said(f"answer {count}") if count <= 2 else httpx.Response(401, json={"error": {"message": "no credit"}})

    with pytest.raises(OptionError, match="status 401: no credit"):
        caption(CaptionOptions(**options(pictures, at_once=1)), Writer(dies).transport)
    assert not (pictures.parent / "out.jsonl").exists()
    # A kill in the middle of a line leaves half of it.
    with (pictures.parent / "out.jsonl.asked").open("a") as journal:
        journal.write('{"image": "d.png", "ro')
    writer = Writer(lambda _: said("later"))
    caption(CaptionOptions(**options(pictures)), writer.transport)
    assert [row.answer for row in rows(pictures)] == ["answer 1", "answer 2", "later", "later"]
    assert len(writer.bodies) == 2
    again = Writer(lambda _: said("never"))
    caption(CaptionOptions(**options(pictures)), again.transport)
    assert not again.bodies


def test_another_model_is_not_mixed_in(pictures: Path) -> None:
    caption(CaptionOptions(**options(pictures)), Writer(lambda _: said("x")).transport)
    with pytest.raises(OptionError, match=r"--model: .*out.jsonl.asked was begun with another"):
        caption(CaptionOptions(**options(pictures, model="other")), Writer(lambda _: said("y")).transport)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("broken", [429, 503, 500, "timeout"])
def test_a_condition_is_waited_for(broken: int | str, pictures: Path) -> None:
    tried = 0

    def sometimes(_: dict[str, Any]) -> httpx.Response:
        nonlocal tried
        tried += 1
        if tried % 2 and broken == "timeout":
            raise httpx.ReadTimeout("slow")
        return httpx.Response(int(broken), headers={"retry-after": "1"}) if tried % 2 else said("good")

    caption(CaptionOptions(**options(pictures)), Writer(sometimes).transport)
    assert [row.answer for row in rows(pictures)] == ["good"] * 4


@pytest.mark.usefixtures("hurried")
def test_an_endpoint_that_never_answers_is_named_with_the_way_on(pictures: Path) -> None:
    writer = Writer(lambda _: httpx.Response(503, json={"error": {"message": "asleep"}}))
    with pytest.raises(OptionError, match=r"status 503: asleep.*the same command goes on"):
        caption(CaptionOptions(**options(pictures, patience_s=20)), writer.transport)


def test_one_picture_that_is_refused_does_not_stop_the_others(pictures: Path) -> None:
    (pictures / "cut.png").write_bytes(png()[:60])
    replies = iter([said("good"), httpx.Response(400, json={"error": {"message": "too dark"}}), said("", "stop")])
    writer = Writer(lambda _: next(replies, said("half", "length")))
    told = caption(CaptionOptions(**options(pictures, at_once=1)), writer.transport)
    assert [row.answer for row in rows(pictures)] == ["good"]
    for why in ("refused with status 400: too dark", "caption empty", "cut off at --max-tokens 256", "picture: "):
        assert why in told


def test_the_cost_is_told_before_and_bounded(pictures: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    prices = {"price_in": 1000.0, "price_out": 10_000.0}
    writer = Writer(lambda _: said("x"))
    told = caption(CaptionOptions(**options(pictures, plan=True, per_minute=60, **prices)), writer.transport)
    assert "of which one was asked" in told
    assert len(writer.bodies) == 1
    assert "4 pictures to ask about (0 are done), at most 4 requests, at least 0 minutes" in caplog.text
    assert "at most 1024 tokens come back, 10.24 in money" in caplog.text
    assert "400 tokens go in and 40 come back in all, 0.80 in money" in caplog.text
    with pytest.raises(OptionError, match=r"--most-cost 0\.3: by the first picture all would cost 0\.60"):
        caption(CaptionOptions(**options(pictures, most_cost=0.3, **prices)), Writer(lambda _: said("x")).transport)


def test_the_price_of_answers_alone_is_told_at_the_end(pictures: Path) -> None:
    told = caption(CaptionOptions(**options(pictures, price_out=10_000.0)), Writer(lambda _: said("x")).transport)
    assert "4 requests, 400 tokens in and 40 back, 0.4000 in money" in told


def test_money_that_is_spent_ends_it(pictures: Path) -> None:
    lengths = iter((1, 1000, 1000, 1000))

    def dearer(_: dict[str, Any]) -> httpx.Response:
        usage = {"prompt_tokens": next(lengths), "completion_tokens": 0}
        return httpx.Response(200, json={"choices": [{"message": {"content": "x"}}], "usage": usage})

    writer = Writer(dearer)
    with pytest.raises(OptionError, match=r"--most-cost 500: is spent"):
        caption(CaptionOptions(**options(pictures, most_cost=500, price_in=1e6, at_once=1)), writer.transport)
    assert len(writer.bodies) == 2


def test_no_more_requests_a_minute_than_were_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(asking, "sleep", waited.append)
    monkeypatch.setattr(asking, "monotonic", lambda: 5.0)
    pace = Pace(30)
    for _ in range(4):
        pace.wait()
    assert waited == [0.0, 2.0, 4.0, 6.0]


LIST = json.dumps([{"question": "Which color?", "answer": "Red"}, {"question": "How many?", "answer": "2"}])


def test_questions_are_kept_where_answers_agree(pictures: Path) -> None:
    """Asked again, the model says red of the color, and another number each time."""
    numbers = iter(range(100))

    def reply(body: dict[str, Any]) -> httpx.Response:
        text = body["messages"][0]["content"][1]["text"]
        if text.startswith("Write 2"):
            return said(f"Sure: {LIST}")
        return said("red." if "color" in text else str(10 + next(numbers)))

    writer = Writer(reply)
    told = questions(QuestionOptions(**options(pictures, count=2, answers=3, limit=2)), writer.transport)
    assert [(row.id, row.question, row.answer, row.category) for row in rows(pictures)] == [
        (f"{name}#0", "Which color?", "Red", "written") for name in ("a.png", "b.png")
    ]
    assert "2 x left out, answers do not agree, by --agree 0.6" in told
    assert len(writer.bodies) == 2 * (1 + 2 * 2)


def test_a_hook_and_a_bad_list_leave_rows_out(pictures: Path) -> None:
    replies = iter([said(LIST), said("no list")])
    hook = "tests.trainer.data.test_written:no_numbers"
    told = questions(
        QuestionOptions(**options(pictures, limit=2, at_once=1, hook=hook)), Writer(lambda _: next(replies)).transport
    )
    assert [row.answer for row in rows(pictures)] == ["Red"]
    assert "1 x left out, a number: a.png#1" in told
    assert "no question with a short answer in a JSON list: b.png" in told


def no_numbers(row: Row) -> str | None:
    return "a number" if row.answer.isdigit() else None


def test_braces_that_are_not_doubled_are_named(pictures: Path) -> None:
    with pytest.raises(OptionError, match=r"--ask: .*\{count\}"):
        questions(
            QuestionOptions(**options(pictures, ask='As [{"question": 1}]')), Writer(lambda _: said("x")).transport
        )


@given(st.lists(st.sampled_from(["a", "A.", "b", "c"]), max_size=9), st.floats(0.01, 1))
def test_an_agreed_answer_has_its_share(answers: list[str], least: float) -> None:
    found = agreed(answers, least)
    counts = {key: sum(each.lower().strip(".") == key for each in answers) for key in "abc"}
    if found is None:
        assert not answers or max(counts.values()) < least * len(answers)
    else:
        assert counts[found.lower().strip(".")] == max(counts.values()) >= least * len(answers)


async def test_a_busy_service_of_our_own_is_waited_for(pictures: Path, socket: Running) -> None:
    """It has one slot and one place, and four pictures are asked about at once."""
    url = f"{socket.client.base_url}/v1".replace("//v1", "/v1")
    arguments = ["data", "caption", "--images", str(pictures), "--output", str(pictures.parent / "out.jsonl")]
    arguments += ["--url", url, "--model", "tiny-llava-int4", "--at-once", "4"]
    assert await asyncio.to_thread(main, arguments) == 0
    assert len(rows(pictures)) == 4


@pytest.mark.engine
async def test_our_own_service_describes_pictures(
    pictures: Path, real: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{real.client.base_url}/v1".replace("//v1", "/v1")
    arguments = ["data", "caption", "--images", str(pictures), "--output", str(pictures.parent / "out.jsonl")]
    arguments += ["--url", url, "--model", "tiny-llava-int4", "--ask", "what color is the circle?"]
    assert await asyncio.to_thread(main, [*arguments, "--question", "what color is the circle?"]) == 0
    assert {Path(str(row.image)).name: row.answer for row in rows(pictures)} == {
        "a.png": "red", "b.png": "green", "c.png": "blue", "d.png": "black",
    }  # fmt: skip
    assert "4 requests, " in capsys.readouterr().out
