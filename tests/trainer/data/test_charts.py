"""Charts and their questions: the same for the same seed, true to the numbers, and accepted by `data check`."""

import io
import json
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from trainer.__main__ import main
from trainer.config.data import KINDS, QUESTION_KINDS, ChartOptions, Kind, Refer
from trainer.data.charts.chart import Chart, invent
from trainer.data.charts.drawing import draw
from trainer.data.charts.questions import questions_of
from trainer.data.charts.written import accept, endpoint_of, write
from trainer.data.endpoint import Endpoint
from trainer.errors import OptionError

BAR = Chart("bar", "sales", ("tea", "nuts", "rice"), ("sales",), ((20, 50, 50),), True)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_same_seed_draws_the_same_files_which_check_accepts(tmp_path: Path) -> None:
    for name, seed in (("one", "0"), ("two", "0"), ("three", "1")):
        assert main(["data", "charts", "--output", str(tmp_path / name), "--charts", "6", "--seed", seed]) == 0
    one, two, three = (contents(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two
    assert one.keys() != three.keys()
    rows, images = tmp_path / "one/charts.jsonl", tmp_path / "one/images"
    assert main(["data", "check", "--data", str(rows), "--images", str(images)]) == 0


@given(st.sampled_from(KINDS), st.integers(0, 10_000), st.sampled_from(("any", "even", "bell", "skewed")))
def test_an_invented_chart_can_be_read(kind: Kind, seed: int, values: str) -> None:
    options = ChartOptions(output="x", values=values)
    chart = invent(kind, options, np.random.default_rng(seed))
    assert all(0 < value <= 100 for series in chart.values for value in series)
    assert len(set(chart.names)) == len(chart.names) <= options.parts
    assert kind != "pie" or sum(chart.values[0]) == 100
    assert chart.numbered or kind == "scatter" or all(value % 10 == 0 for value in chart.values[0])
    assert list(chart.values[0]) == sorted(chart.values[0], reverse=True) or kind != "funnel"
    questions = questions_of(chart, list(QUESTION_KINDS), 50, np.random.default_rng(seed))
    assert len({question.text for question in questions}) == len(questions)


def test_answers_are_true() -> None:
    answers = {each.text: each.answer for each in questions_of(BAR, list(QUESTION_KINDS), 50, np.random.default_rng(0))}
    assert answers == {
        "What is the value of tea?": "20", "What is the value of nuts?": "50", "What is the value of rice?": "50",
        "Is tea larger than nuts?": "no", "Is nuts larger than tea?": "yes",
        "Is tea larger than rice?": "no", "Is rice larger than tea?": "yes",
        "What is the sum of tea and nuts?": "70", "What is the sum of tea and rice?": "70",
        "What is the sum of nuts and rice?": "100",
        "Which is the smallest?": "tea",  # nuts and rice are both the largest: not asked
        "How many bars are there?": "3",
    }  # fmt: skip


def test_parts_can_be_called_by_their_place() -> None:
    line = Chart("line", "rain", ("Jan", "Feb", "Mar"), ("rain",), ((20, 50, 10),), False)
    answers = {
        each.text: each.answer
        for each in questions_of(line, list(QUESTION_KINDS), 50, np.random.default_rng(0), ["place"])
    }
    assert answers == {
        "What is the value of the first point?": "20", "What is the value of the second point?": "50",
        "What is the value of the third point?": "10",
        "Is the first point larger than the second point?": "no",
        "Is the first point larger than the third point?": "yes",
        "Is the second point larger than the first point?": "yes",
        "Is the second point larger than the third point?": "yes",
        "Is the third point larger than the first point?": "no",
        "Is the third point larger than the second point?": "no",
        "What is the sum of the first point and the second point?": "70",
        "What is the sum of the first point and the third point?": "30",
        "What is the sum of the second point and the third point?": "60",
        "Which point is the largest, counted from the left?": "second",
        "Which point is the smallest, counted from the left?": "third",
        "Does the line end higher or lower than it starts?": "lower",
        "How many points are there?": "3",
    }  # fmt: skip


@given(st.sampled_from(KINDS), st.integers(0, 10_000))
def test_both_ways_of_calling_parts_ask_what_each_does_and_nothing_twice(kind: Kind, seed: int) -> None:
    chart = invent(kind, ChartOptions(output="x", parts=8), np.random.default_rng(seed))
    ways: tuple[list[Refer], ...] = (["name"], ["place"], ["name", "place"])
    named, placed, both = (
        [each.text for each in questions_of(chart, list(QUESTION_KINDS), 999, np.random.default_rng(0), refer)]
        for refer in ways
    )
    assert sorted(both) == sorted(set(named + placed))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [64, 128, 300])
def test_a_drawn_chart_has_its_size_and_something_on_it(kind: Kind, size: int) -> None:
    rng = np.random.default_rng(3)
    chart = invent(kind, ChartOptions(output="x", size=size), rng)
    with Image.open(io.BytesIO(draw(chart, size, rng))) as image:
        assert image.size == (size, size)
        assert len(image.convert("RGB").getcolors(size * size) or ()) > 10


def endpoint(content: object, *busy: int) -> Endpoint:
    """One that answers with the statuses of `busy` first."""
    left = list(busy)

    def answer(request: httpx.Request) -> httpx.Response:
        status = left.pop(0) if left else 200
        assert request.url == "http://writer/v1/chat/completions"
        assert json.loads(request.content)["model"] == "m"
        return httpx.Response(status, json={"choices": [{"message": {"content": content}}]} if content else {})

    options = ChartOptions(output="x", questions_url="http://writer/v1/", questions_model="m")
    found = endpoint_of(options, httpx.MockTransport(answer))
    assert found is not None
    return found


def test_an_endpoint_writes_questions_and_long_answers_are_refused() -> None:
    items = [{"question": "Which is low?", "answer": " tea "}, {"question": "Why?", "answer": "a" * 41}, {}, 3]
    written, refused = write(endpoint(f"Here you are: {json.dumps(items)}"), BAR, 4)
    assert [(each.kind, each.text, each.answer) for each in written] == [("written", "Which is low?", "tea")]
    assert refused == 3


def test_an_endpoint_that_fails_is_named() -> None:
    for broken in (endpoint("x", 401), endpoint(None)):
        with pytest.raises(OptionError, match="--questions-url"):
            write(broken, BAR, 1)
    with pytest.raises(OptionError, match="--questions-model"):
        endpoint_of(ChartOptions(output="x", questions_url="http://writer/v1"))
    assert endpoint_of(ChartOptions(output="x")) is None


def test_an_endpoint_that_is_busy_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = list[float]()
    monkeypatch.setattr("trainer.data.endpoint.sleep", waits.append)
    items = [{"question": "Which is low?", "answer": "tea"}]
    written, _ = write(endpoint(json.dumps(items), 503, 429), BAR, 4)
    assert [each.answer for each in written] == ["tea"]
    assert len(waits) == 2


@given(st.text(max_size=80))
def test_any_text_of_an_endpoint_is_judged(text: str) -> None:
    for given_text in (text, f"[{text}]", f'[{{"question": "q", "answer": {json.dumps(text)}}}]'):
        written, refused = accept(given_text, 3)
        assert all(0 < len(each.answer) <= 40 for each in written)
        assert refused >= 0
