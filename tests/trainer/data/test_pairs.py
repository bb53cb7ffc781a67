"""Pairs of answers are read, checked, written and made from the corrections that the service keeps."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from service.capture import Files, Record
from tests.conftest import png
from trainer.__main__ import main
from trainer.data.digests import data_digest
from trainer.data.forms.reading import Reading
from trainer.data.row import Row, per_question
from trainer.data.rows import read_rows
from trainer.errors import DataError

PAIR = {"image": "a.png", "question": "q", "chosen": "a", "rejected": "b"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.png").write_bytes(png())
    return tmp_path


def written(folder: Path, *records: Any) -> str:
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, records)))
    return str(folder / "rows.jsonl")


@pytest.mark.parametrize(
    "record",
    [
        PAIR,
        {"image": "a.png", "question": "q", "answer": "a", "rejected": "b"},
        {"image": "a.png", "prompt": "q", "chosen": "a", "rejected_response": "b"},
        {
            "images": ["a.png"],
            "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "q"}]}],
            "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "a"}]}],
            "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "b"}]}],
        },
    ],
)
def test_a_pair_is_a_row_whose_answer_is_the_chosen_one(record: dict[str, Any], folder: Path) -> None:
    (row,) = read_rows(written(folder, record), folder)
    assert (row.question.strip(), row.answer, row.rejected) == ("q", "a", "b")
    assert row.image == str(folder / "a.png")


def test_of_a_conversation_the_last_answer_is_the_chosen_one(folder: Path) -> None:
    turns = [("human", "<image>\nq"), ("gpt", "a"), ("human", "why?"), ("gpt", "so")]
    record = {"image": "a.png", "conversations": [{"from": who, "value": text} for who, text in turns]}
    (row,) = read_rows(written(folder, {**record, "rejected": "no"}), folder)
    assert (row.answer, row.rejected) == ("so", "no")
    assert [each.rejected for each in per_question([row])] == [None, "no"]


FAULTY: list[tuple[dict[str, Any], str]] = [
    ({**PAIR, "rejected": "a"}, "its chosen and its rejected answer are the same"),
    ({**PAIR, "rejected": " a "}, "its chosen and its rejected answer are the same"),
    ({**PAIR, "rejected": ""}, "field 'rejected' is missing or empty"),
    ({**PAIR, "rejected": None}, "field 'rejected' is missing: a pair has"),
    ({**PAIR, "chosen": ""}, "field 'chosen' is missing or empty"),
    ({**PAIR, "chosen": None}, "field 'chosen' is missing or empty"),
    ({**PAIR, "rejected": 3.5, "chosen": {"a": 1}}, "field 'chosen' is an object, not text"),
    ({**PAIR, "rejected": ["b", "c"]}, "field 'rejected' is a list, not text"),
    ({**PAIR, "rejected": "b<image>"}, "field 'rejected' has 1 <image> placeholders"),
    ({**PAIR, "rejected": "b" * 2001}, "rejected has 2001 characters, over --max-text 2000"),
]


@pytest.mark.parametrize(("record", "fault"), FAULTY)
def test_check_names_the_line_and_the_fault(
    record: dict[str, Any], fault: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(folder, PAIR, record)
    assert main(["data", "check", "--data", file, "--images", str(folder), "--index", "None"]) == 2
    said = capsys.readouterr().err
    assert f"{file}:2: " in said
    assert fault in said


def test_check_says_how_many_rows_are_pairs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(folder, PAIR, {"image": "a.png", "question": "q", "answer": "a"})
    assert main(["data", "check", "--data", file, "--images", str(folder), "--index", "None"]) == 0
    assert "1 of 2 rows are pairs of answers" in capsys.readouterr().out


def test_pairs_stay_pairs_through_the_commands(folder: Path) -> None:
    """Several pairs of one question are no copies of one another; the same pair again is one."""
    other = {**PAIR, "rejected": "c"}
    file, out = written(folder, PAIR, other, PAIR), folder / "out.jsonl"
    assert (
        main(["data", "dedupe", "--data", file, "--images", str(folder), "--output", str(out), "--index", "None"]) == 0
    )
    kept = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["chosen"], row["rejected"]) for row in kept] == [("a", "b"), ("a", "c")]
    assert [row.rejected for row in read_rows(out, folder)] == ["b", "c"]


def test_another_rejected_answer_is_other_data() -> None:
    single = Row("1", None, "q", "a", "all")
    digests = {data_digest([row], {}) for row in (single, Row("1", None, "q", "a", "all", rejected="b"))}
    assert len(digests | {data_digest([Row("1", None, "q", "a", "all", rejected="c")], {})}) == 3


@pytest.fixture
def captured(tmp_path: Path) -> Path:
    """What a service has kept, by its own code: a question corrected twice, one confirmed, one about no picture."""
    files = Files(tmp_path / "captured", days=30, size=10**9)
    picture = Image.new("RGB", (64, 64), "red")
    for request, question, answer, shown in (
        ("vqa-1", "what color?", "blue", picture),
        ("vqa-2", "which shape?", "circle", picture),
        ("vqa-3", "how many legs has a spider?", "six", None),
    ):
        files.save(Record(request, "t", "shapes", "3f9a", question, answer, 0.9, picture=shown))
    for request, right in (("vqa-1", "green"), ("vqa-2", "Circle"), ("vqa-3", "eight"), ("vqa-1", "red")):
        found = files.find(request, "t")
        assert found is not None
        files.save(found.corrected(right, None))
    return tmp_path / "captured"


def test_corrections_become_pairs(captured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pairs.jsonl"
    words = ["data", "import", "--form", "feedback", "--source", str(captured), "--output", str(out), "--index", "None"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "2 rows written" in said
    assert "1 x dropped, its chosen and its rejected answer are the same" in said
    assert "a later one of the same question replaced: 1" in said
    assert f"--data {out} --images {captured}" in said
    rows = {row.id: row for row in read_rows(out, captured)}
    assert {id_: (row.question, row.answer, row.rejected) for id_, row in rows.items()} == {
        "vqa-1": ("what color?", "red", "blue"),
        "vqa-3": ("how many legs has a spider?", "eight", "six"),
    }
    assert rows["vqa-1"].category == "shapes"
    assert rows["vqa-1"].image is not None
    assert Path(rows["vqa-1"].image).is_file()
    assert main(["data", "check", "--data", str(out), "--images", str(captured), "--index", "None"]) == 0


def test_one_day_and_one_file_are_read_too(captured: Path) -> None:
    day = captured / datetime.now(UTC).date().isoformat()
    (file,) = day.glob("corrections-*.jsonl")
    how = Reading("feedback", ignore=frozenset())
    with pytest.raises(DataError, match="its chosen and its rejected answer are the same"):
        read_rows(file, day / "images", how)
    file.write_text("\n".join(line for line in file.read_text().splitlines() if "vqa-1" in line))
    assert [row.rejected for row in read_rows(file, day / "images", how)] == ["blue", "blue"]
    assert [(row.answer, row.rejected) for row in read_rows(day, day / "images", how)] == [("red", "blue")]
    assert [row.rejected for row in read_rows(file, day / "images")] == [None, None]  # as they are, rows to learn


def test_questions_and_other_folders_are_no_feedback(captured: Path, tmp_path: Path) -> None:
    (questions,) = captured.glob("*/questions-*.jsonl")
    with pytest.raises(DataError, match="is not of --form feedback"):
        read_rows(questions, questions.parent / "images", Reading("feedback"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no corrections-\*\.jsonl"):
        read_rows(tmp_path / "empty", tmp_path, Reading("feedback"))


def test_a_torn_line_is_named(captured: Path) -> None:
    (file,) = captured.glob("*/corrections-*.jsonl")
    file.write_text(file.read_text() + '{"request": "vqa-9", "que')
    with pytest.raises(DataError, match=rf"{file.name}:5: not a JSON object"):
        read_rows(captured, captured, Reading("feedback"))
