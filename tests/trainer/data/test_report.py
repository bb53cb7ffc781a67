"""`data report`: one page that stands alone, with the figures of the set, in any size of it."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import ROOT, png
from tests.trainer.evaluation.test_report import EVIL, Page
from trainer.__main__ import main
from trainer.data.pages.set import _histogram
from trainer.data.report import _Base
from trainer.data.row import Row
from trainer.data.survey import Sample, Survey, survey
from trainer.model.checkpoint import Checkpoint

MODEL = ROOT / "models/tiny-llava"
COLOURS = ("red", "green", "blue", "black", "orange", "purple")


def write(file: Path, rows: Iterable[dict[str, Any]]) -> Path:
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Ten pictures, a copy of the first under another name, one that looks like the second, and a broken one."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(10):
        (folder / f"{number}.png").write_bytes(png(COLOURS[number % 6], (64 + 8 * (number // 6), 64)))
    (folder / "same.png").write_bytes((folder / "0.png").read_bytes())
    with Image.open(folder / "1.png") as image:
        image.save(folder / "alike.png", compress_level=1)
    (folder / "broken.png").write_bytes(png()[:90])
    return folder


def told(tmp_path: Path, images: Path, rows: list[dict[str, Any]], *options: str) -> str:
    data = write(tmp_path / "rows.jsonl", rows)
    paths = ["--data", str(data), "--images", str(images), "--output", str(tmp_path / "report.html")]
    assert main(["data", "report", *paths, "--index", str(tmp_path / "index"), *options]) == 0
    return (tmp_path / "report.html").read_text()


def about(image: int | str, answer: str, question: str = "colour?", category: str = "colour") -> dict[str, Any]:
    name = f"{image}.png" if isinstance(image, int) else image
    return {"image": name, "question": question, "answer": answer, "category": category}


def text_of(html: str) -> str:
    return " ".join(Page(html.replace("</t", " </t")).text.split())


def test_its_figures_are_those_of_the_set(tmp_path: Path, images: Path) -> None:
    rows = [about(number, answer) for number, answer in enumerate(["red", "Red.", "red", "blue"])]
    rows += [about(4, "yes", "dark?", "dark"), about(4, "no", "light?", "dark")]
    rows += [{"question": "what is 1+1?", "answer": "2", "category": "text"}]
    text = text_of(told(tmp_path, images, rows))
    assert "7 rows with 7 questions about 5 pictures, 14.3% of the rows text alone, 0 of them conversations" in text
    assert "always answering 'red' is right for 42.9%" in text
    assert "colour 4 57.1% 0.0% 2 red 75.0%" in text
    assert "dark 2 28.6% 0.0% 2 no 50.0%" in text
    assert "text 1 14.3% 100.0% 1 2 100.0%" in text
    assert "all 7 100.0% 14.3% 5 red 42.9%" in text
    assert "5 different answers, of which 4 come once" in text
    assert "shorter side, pixels 64 64 64 64 64" in text


def test_the_guess_of_the_training_side_is_scored_on_the_held_out_rows(tmp_path: Path, images: Path) -> None:
    held = write(tmp_path / "held.jsonl", [about(5, "red"), about(6, "blue"), about(7, "blue"), about(8, "blue")])
    text = text_of(told(tmp_path, images, [about(n, "red") for n in range(3)], "--held-out", str(held)))
    assert "held out are 4 rows about 4 pictures, where that answer is right for 25.0%" in text
    assert "all 3 100.0% 0.0% 1 red 100.0% 4 25.0%" in text


def test_pictures_and_texts_that_both_sides_share_are_told(tmp_path: Path, images: Path) -> None:
    held = [about("same.png", "red"), about("alike.png", "green"), about("alike.png", "x", "what?"), about(9, "blue")]
    held += [{"question": "What  is 1+1?", "answer": "2"}, {"question": "what is 2+2?", "answer": "4"}]
    rows = [about(0, "red"), about(1, "green"), {"question": "what is 1+1?", "answer": "2"}]
    write(tmp_path / "held.jsonl", held)
    text = text_of(told(tmp_path, images, rows, "--held-out", str(tmp_path / "held.jsonl")))
    assert "Held-out pictures that are trained on too: 1. 1 of 6 held-out rows are about them" in text
    assert "same.png as 0.png" in text
    assert "Held-out pictures that look like one that is trained on: 1. 2 of 6 held-out rows" in text
    assert "alike.png as 1.png" in text
    assert "Held-out questions of text that are trained on too: 1." in text


def test_what_training_would_refuse_is_told(tmp_path: Path, images: Path) -> None:
    rows = [about(0, "red"), about("broken.png", "blue"), about(1, "yes", "is it so? " * 600)]
    text = text_of(told(tmp_path, images, rows))
    assert "Pictures that cannot be read or decoded: 1." in text
    assert "broken.png: the image" in text
    assert "Rows that do not fit the base: 1." in text
    assert "rows.jsonl:3: " in text
    assert "2 of 3 pictures, drawn by chance" in text
    assert "1 of those drawn cannot be shown" in text


def test_rows_that_are_there_again_or_contradict_are_told(tmp_path: Path, images: Path) -> None:
    rows = [about(0, "red"), about(0, "RED", " Colour?"), about(0, "blue"), about(1, "red")]
    text = text_of(told(tmp_path, images, rows))
    assert "Rows that contradict an earlier one: 1." in text
    assert "Rows that are there again: 1." in text
    assert "Questions whose answer is 'red': 3. 75% of all" in text


def test_the_page_stands_alone_and_all_text_is_escaped(tmp_path: Path, images: Path) -> None:
    rows = [about(number, f"{EVIL} {number}", EVIL, EVIL) for number in range(10)]
    html = told(tmp_path, images, rows)
    read = Page(html)
    assert "<script" not in html
    assert EVIL in read.text
    addresses = [value for _, names in read.tags for name, value in names.items() if name in ("src", "href")]
    assert addresses
    assert all(str(address).startswith("data:image/jpeg;base64,") for address in addresses)
    assert "default-src 'none'" in str(read.all("meta"))
    ids = [names["id"] for _, names in read.tags if "id" in names]
    assert len(ids) == len(set(ids))
    assert read.all("html") == [{"lang": "en"}]
    assert all(names.get("alt") for names in read.all("img"))
    assert all(names.get("scope") in ("col", "row") for names in read.all("th"))
    assert len(read.all("table")) == len(read.all("caption"))


def test_pictures_come_a_page_at_a_time_and_no_more_than_were_asked_for(tmp_path: Path, images: Path) -> None:
    for number in range(10, 60):
        (images / f"{number}.png").write_bytes(png(COLOURS[number % 6], (64 + number, 64)))
    rows = [about(number, "red", f"colour {turn}?") for number in range(60) for turn in range(6)]
    read = Page(told(tmp_path, images, rows, "--pictures", "30"))
    assert len(read.all("img")) == 30
    assert len(read.all("ol")) == len(read.all("input")) == 2
    assert [names.get("checked", "no") for names in read.all("input")] == [None, "no"]
    assert len(read.all("dt")) == 30 * 4
    again = Page(told(tmp_path, images, list(reversed(rows)), "--pictures", "30"))
    assert [names["src"] for names in again.all("img")] == [names["src"] for names in read.all("img")]
    assert Page(told(tmp_path, images, rows, "--pictures", "0")).all("img") == []


def test_a_set_of_text_alone_has_a_page(tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", [{"question": f"what is {n}?", "answer": str(n)} for n in range(3)])
    options = ["--data", str(data), "--output", str(tmp_path / "report.html")]
    assert main(["data", "report", *options, "--index", "None"]) == 0
    assert not Path("None").exists()  # --help says that None keeps nothing
    assert "100.0% of the rows text alone" in text_of((tmp_path / "report.html").read_text())


def test_tokens_are_counted_as_training_counts_them() -> None:
    base, checkpoint = _Base.of(MODEL), Checkpoint.load(MODEL)
    assert (base.image_tokens, base.context) == (checkpoint.image_shape[0], checkpoint.context)
    row = Row("1", "a.png", "what colour is it?", "dark red", "all")
    whole, (answer,) = base.measured(row)
    assert answer == len(base.prompt.encode_answer(row.question, row.answer))
    assert whole == len(base.prompt.encode(row.question)) + base.image_tokens - 1 + answer
    text = Row("2", None, "and then?", "blue", "all", history=(("what?", "red"),))
    assert [len(base.measured(text)[1]), base.measured(text)[0] < base.image_tokens] == [2, True]


def test_a_histogram_has_all_counts_and_says_its_middle() -> None:
    found = survey([Row("1", None, "q", "a", "all")], lambda _: (7, [1, 1, 2, 40]), 100, Sample(0, 0))
    bars = _histogram(found.answer_tokens)
    assert sum(bar.count for bar in bars.bars) == 4
    assert [bar.name for bar in bars.bars if bar.count] == ["1", "2", "33–40"]
    assert bars.words == "half have at most 1, 95% at most 40, the longest 40"


def test_long_answers_are_counted_apart_by_all_of_their_text() -> None:
    long = "a very long answer " * 20
    rows = [Row(str(n), None, "q", answer, "all") for n, answer in enumerate([long, long, long + "but another"])]
    found: Survey = survey(rows, lambda _: (1, [1]), 100, Sample(0, 0))
    assert sorted(found.all.answers.values()) == [1, 2]
    assert max(map(len, found.all.answers)) < 150
