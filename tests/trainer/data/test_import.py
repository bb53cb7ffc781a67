"""Each form of data set, in a small real example, becomes JSON lines that `data check` accepts."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import png
from trainer.__main__ import main
from trainer.data.forms import scienceqa
from trainer.data.row import Row
from trainer.data.rows import read_rows
from trainer.errors import DataError


def bring(form: str, source: Path, images: Path, *options: str) -> list[Row]:
    output = source.parent / "out.jsonl"
    paths = ["--source", str(source), "--images", str(images), "--output", str(output)]
    assert main(["data", "import", "--form", form, *paths, *options]) == 0
    assert main(["data", "check", "--data", str(output), "--images", str(images)]) == 0
    return read_rows(output, images)


def put(file: Path, value: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return file


def test_llava(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "000000033471.jpg").write_bytes(png(file_format="JPEG"))
    talk = [
        {"from": "human", "value": "<image>\nWhat are the colors of the bus in the image?"},
        {"from": "gpt", "value": "The bus in the image is white and red."},
        {"from": "human", "value": "What feature can be seen on the back of the bus?"},
        {"from": "gpt", "value": "The back of the bus features an advertisement."},
    ]
    record = {"id": "000000033471", "image": "000000033471.jpg", "conversations": talk}
    records = [record, record, {"id": "x", "conversations": talk[:1]}, {**record, "image": "gone.jpg"}]
    rows = bring("llava", put(tmp_path / "llava.json", records), tmp_path)
    assert [row.id for row in rows] == ["000000033471", "000000033471~2"]
    assert rows[0].exchanges[0][0] == "What are the colors of the bus in the image?"
    printed = capsys.readouterr().out
    assert "has no answer: 1 (record 3)" in printed
    assert "record 4): 'gone.jpg'" in printed


def test_chartqa(tmp_path: Path) -> None:
    (tmp_path / "41699051005347.png").write_bytes(png())
    query = "How many food item is shown in the bar graph?"
    record = {"imgname": "41699051005347.png", "query": query, "label": "14"}
    (row,) = bring("chartqa", put(tmp_path / "test_human.json", [record]), tmp_path)
    image = str(tmp_path / "41699051005347.png")
    assert row == Row("test_human-1", image, query, "14", "test_human")


def test_scienceqa(tmp_path: Path) -> None:
    (tmp_path / "train/1").mkdir(parents=True)
    (tmp_path / "train/1/image.png").write_bytes(png())
    problem = {
        "question": "Which of these states is farthest north?", "choices": ["West Virginia", "Louisiana", "Arizona"],
        "answer": 0, "hint": "", "image": "image.png", "subject": "social science", "split": "train", "grade": "grade7",
    }  # fmt: skip
    text = {**problem, "image": None, "hint": "A hint.", "answer": 2}
    beyond = {**problem, "answer": 9}
    rows = bring("scienceqa", put(tmp_path / "problems.json", {"1": problem, "2": text, "3": beyond}), tmp_path)
    assert [(row.id, row.answer, row.category) for row in rows] == [
        ("1", "West Virginia", "social science"),
        ("2", "Arizona", "social science"),
    ]
    assert rows[0].question.endswith("north?\n(A) West Virginia (B) Louisiana (C) Arizona")
    assert rows[1].question.startswith("A hint.\n")
    assert rows[1].image is None
    assert [row.groups for row in rows] == [("SOC", "IMG", "G7-12"), ("SOC", "TXT", "G7-12")]
    (again,) = read_rows(tmp_path / "out.jsonl", tmp_path)[:1]
    assert again.groups == ("SOC", "IMG", "G7-12")


@pytest.mark.parametrize(
    ("hint", "image", "grade", "groups"),
    [
        ("", None, "grade1", ("NAT", "NO", "G1-6")),
        ("a hint", None, "grade6", ("NAT", "TXT", "G1-6")),
        ("a hint", "image.png", "grade7", ("NAT", "TXT", "IMG", "G7-12")),
        ("", "image.png", "grade12", ("NAT", "IMG", "G7-12")),
        ("", "image.png", "college", ("NAT", "IMG")),
    ],
)
def test_the_groups_of_a_scienceqa_record_are_those_of_lavins_table(
    hint: str, image: str | None, grade: str, groups: tuple[str, ...]
) -> None:
    problem = {"question": "?", "choices": ["a", "b"], "answer": 1, "subject": "natural science"}
    assert scienceqa.convert({**problem, "hint": hint, "image": image, "grade": grade})["counted_in"] == list(groups)


@pytest.mark.parametrize("groups", ["NAT", [1], [""], {"a": 1}])
def test_groups_that_are_no_list_of_names_are_a_fault(groups: object, tmp_path: Path) -> None:
    put(tmp_path / "rows.jsonl", json.dumps({"question": "?", "answer": "!", "counted_in": groups}))
    with pytest.raises(DataError, match=r"rows\.jsonl:1: field 'counted_in' is not a list of names"):
        read_rows(tmp_path / "rows.jsonl", "")


def test_csv_with_other_names(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    table = '\ufefffile,query,answer\na.png,"What, then?",this\n,"two\nlines?",that\na.png,,none\n'
    options = ["--columns", "image=file,question=query"]
    rows = bring("csv", put(tmp_path / "table.csv", table), tmp_path, *options)
    assert [(row.image is not None, row.question) for row in rows] == [(True, "What, then?"), (False, "two\nlines?")]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_huggingface(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "query": datasets.Value("string"), "label": datasets.List(datasets.Value("string"))}
    )
    examples = {"image": [{"bytes": png(), "path": None}, None], "query": ["what?", "why?"], "label": [["x"], ["y"]]}
    found = datasets.DatasetDict({"val": datasets.Dataset.from_dict(examples, features=features)})
    found.save_to_disk(tmp_path / "set")
    rows = bring("huggingface", tmp_path / "set", tmp_path / "images", "--columns", "question=query,answer=label")
    image = str(tmp_path / f"images/{hashlib.sha256(png()).hexdigest()[:20]}.png")
    assert rows == [Row("set-1", image, "what?", "x", "val"), Row("set-2", None, "why?", "y", "val")]


@pytest.mark.parametrize("form", ["llava", "chartqa", "scienceqa", "csv", "huggingface"])
@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", "[1]", '{"a": 1}', '[{"image": "a"}]', "3", 'a\n"b', "\ud800"]
)
def test_another_thing_is_named(form: str, content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "source"
    source.write_bytes(content.encode("utf-8", "surrogatepass"))
    paths = ["--source", str(source), "--images", str(tmp_path), "--output", str(tmp_path / "out.jsonl")]
    assert main(["data", "import", "--form", form, *paths]) == 2
    assert str(source) in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()
