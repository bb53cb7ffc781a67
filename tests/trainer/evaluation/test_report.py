"""The report: one page that stands alone, whose text is escaped and whose figures are those of the evaluation."""

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import png
from trainer.data.pages.pictures import SIDE, curve, thumbnail
from trainer.data.row import Row
from trainer.evaluation.blind import NO_IMAGE
from trainer.evaluation.report import WORST, page, write_report
from trainer.evaluation.report.confusion import confusion
from trainer.evaluation.result import Evaluation, Source

VOID = ("meta", "img", "br", "link", "input", "hr")
EVIL = '<script>alert("x")</script> & <b>bold</b> {{ 7 * 7 }} $\\frac$'
SOURCE = Source("models/tiny-llava", "tiny-llava", "bfloat16")


class Page(HTMLParser):
    """Tags with their attributes, and all text; fails where a tag is not closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def found(tmp_path: Path) -> Evaluation:
    """Eight rows about eight images; the adapter has five right, the base three, one of which the adapter lost."""
    colours = ("red", "green", "blue", "red", "green", "blue", "red")
    for number, colour in enumerate(colours):
        (tmp_path / f"{number}.png").write_bytes(png(colour, (900, 500)))
    rows = [Row(f"row-{n}", str(tmp_path / f"{n}.png"), "colour?", c, "colour") for n, c in enumerate(colours)]
    rows.append(Row(f"row-{EVIL}", None, f"what is {EVIL}?", EVIL, f"text {EVIL}"))
    base = ["red", "red", "red", "red", "green", "red", "blue", EVIL + EVIL]
    adapter = ["red", "green", "blue", "blue", "green", "blue", "", "no"]
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.5}\n{"step": 20, "loss": 0.25, "epoch": 1}\n{"step": ')
    return Evaluation(SOURCE, f"codes {EVIL}", tuple(rows), tuple(base), tuple(adapter), run=tmp_path)


def test_all_text_of_rows_and_answers_is_escaped(found: Evaluation) -> None:
    text = page([found])
    read = Page(text)
    assert "<script" not in text
    assert read.all("script") == []
    assert f"what is {EVIL}?" in read.text  # as written, and no template of its own


def test_the_page_stands_alone(found: Evaluation) -> None:
    """No address but the fragments of its own sections, and a policy that forbids any."""
    read = Page(page([found, found]))
    addresses = [value for _, names in read.tags for name, value in names.items() if name in ("src", "href")]
    assert addresses
    assert all(str(address).startswith(("data:image/", "#e")) for address in addresses)
    assert "default-src 'none'" in str(read.all("meta"))
    ids = [names["id"] for _, names in read.tags if "id" in names]
    assert len(ids) == len(set(ids))


def test_it_can_be_heard_and_read_on_a_phone(found: Evaluation) -> None:
    read = Page(page([found]))
    assert read.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in read.all("meta")
    assert all(names.get("alt") for names in read.all("img"))
    assert all(names.get("scope") in ("col", "row") for names in read.all("th"))
    assert len(read.all("table")) == len(read.all("caption")) == 7  # five metrics, two confusions
    assert [name for name, _ in read.tags if name in ("h1", "h2", "h3")][:3] == ["h1", "h2", "h3"]


def test_its_figures_are_those_of_the_evaluation(found: Evaluation) -> None:
    text = " ".join(Page(page([found])).text.split())
    assert "answers 5 of 8 held-out rows right (62.5%), its base 3 (37.5%): +25.0 points" in text
    assert "3 of 3 wrong answers" in text
    assert "training loss from 2.500 at step 1 to 0.250 at step 20" in text
    # The row that the base has right comes first.
    assert text.index("row-3, colour") < text.index("row-6, colour")
    assert "Base, which has it right" in text


def test_images_seen_in_training_are_warned_of(found: Evaluation) -> None:
    seen = Evaluation(SOURCE, "codes", found.rows, found.base, found.answers, seen=("a.png", "b.png"))
    assert "trained on 2 of these images" in Page(page([seen])).text
    assert "these images" not in Page(page([found])).text


def test_where_the_control_without_images_was_not_made_the_page_says_why(found: Evaluation) -> None:
    said = "not asked, so it is not known whether the adapter looks at the pictures: no row has an image."
    assert said in words(page([replace(found, blind=NO_IMAGE)]))
    assert "Without the images" not in words(page([found]))  # of a base's packed copy, say


def test_an_adapter_without_errors_and_without_a_run_has_a_page_too(found: Evaluation, tmp_path: Path) -> None:
    right = tuple(row.answer for row in found.rows)
    write_report(str(tmp_path / "made/report.html"), [Evaluation(SOURCE, "codes", found.rows, found.base, right)])
    text = Page((tmp_path / "made/report.html").read_text()).text
    assert "There are none." in text
    assert "Training" not in text


def test_only_the_worst_errors_are_shown() -> None:
    rows = tuple(Row(f"r{n}", None, "?", f"answer {n}", "all") for n in range(WORST + 10))
    wrong = ("?",) * len(rows)
    read = Page(page([Evaluation(SOURCE, "codes", rows, wrong, wrong)]))
    assert len(read.all("dl")) == WORST
    assert "No expected answer comes up twice" in read.text


def test_confusion_counts_normalised_answers_and_puts_the_rest_under_other() -> None:
    expected = ["Red", "red.", "red", "blue", "blue", "once"]
    found = confusion(expected, ["red", "blue", "a", "blue", "b", "red"])
    assert found
    assert found.expected == ("red", "blue")
    assert found.said[:2] == ("red", "blue")
    assert found.said[-1] == "other"
    assert [cell.count for cell in found.lines[0]][:2] == [1, 1]
    assert [sum(cell.count for cell in line) for line in found.lines] == [3, 2]
    assert [cell.right for cell in found.lines[1]][:2] == [False, True]
    assert found.lines[0][0].share == pytest.approx(1 / 3)


def test_the_rare_wrong_answers_are_counted_as_other() -> None:
    found = confusion(["red"] * 20, [f"wrong {n}" for n in range(20)])
    assert found
    assert found.lines[0][-1].count == 20 - (len(found.said) - 2)


def test_a_curve_is_of_the_last_run_over_each_step_and_the_same_each_time(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    entries = [{"step": 10, "loss": 9.0}, {"step": 1, "loss": 3.0}, {"step": 10, "loss": 1.0}]
    entries += [{"step": 5, "eval_loss": 2.0}, {"step": 7, "loss": float("nan")}]
    log.write_text("\n".join(map(json.dumps, entries)))
    found = curve(log)
    assert found
    held_out = "held-out loss from 2.000 at step 5 to 2.000 at step 5"
    assert found.words == f"training loss from 3.000 at step 1 to 1.000 at step 10; {held_out}"
    assert found == curve(log)
    assert b"<svg" in base64.b64decode(found.uri.partition(",")[2])
    log.write_text("[]\n")
    assert curve(log) is None
    assert curve(tmp_path / "none") is None


def test_a_thumbnail_is_a_small_jpeg_of_the_whole_image(tmp_path: Path) -> None:
    (tmp_path / "wide.png").write_bytes(png("red", (1000, 500)))
    with Image.open(io.BytesIO(base64.b64decode(thumbnail(str(tmp_path / "wide.png")).uri.partition(",")[2]))) as image:
        assert (image.format, image.size) == ("JPEG", (SIDE, SIDE // 2))


def words(text: str) -> str:
    """A page's text, with a space wherever there is a tag."""
    return " ".join(re.sub("<[^>]*>", " ", text).split())


def test_confidence_has_its_picture_and_a_plain_line_for_each_figure(found: Evaluation) -> None:
    assert "Confidence" not in Page(page([found])).text
    sure = replace(found, base_confidences=(0.5,) * 8, confidences=(0.99, 0.9, 0.9, 0.6, 0.8, 0.7, None, 0.2))
    read, text = Page(page([sure])), words(page([sure]))
    figures = sure.sureness["adapter"]
    assert figures is not None
    assert figures.count == 7  # one is not known
    assert f"ECE, points {100 * figures.ece:.1f}" in text
    assert "answered at 5% risk" in text
    assert "none" in text  # the base is as sure of all, and wrong too often
    assert any("points between confidence and share right" in str(names.get("alt")) for names in read.all("img"))


def test_closed_and_open_questions_are_told_apart() -> None:
    asked = [("is it red?", "yes"), ("is it blue?", "no"), ("what is it?", "a disc"), ("who made it?", "unanswerable")]
    rows = tuple(Row(str(n), None, question, answer, "all") for n, (question, answer) in enumerate(asked))
    said = ("yes", "yes", "red disc", "unanswerable")
    text = words(page([Evaluation(SOURCE, "codes", rows, ("no",) * 4, said)]))
    assert "By kind of question" in text
    assert "2 yes-no questions, percent" in text
    assert "adapter 50.0 50.0 100.0 66.7 100.0 0.0" in text  # right, precision, recall, F1, says yes, says neither
    assert "1 of 4 questions cannot be answered" in text
