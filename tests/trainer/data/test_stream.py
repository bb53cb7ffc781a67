"""Rows stay in their file: the same rows, for little memory, from any place."""

import json
from pathlib import Path

import fsspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import png
from trainer.data.row import per_question
from trainer.data.rows import read_rows
from trainer.data.split import read_sides, sample
from trainer.data.stream import RowFile
from trainer.data.write import Report, writing
from trainer.errors import DataError

texts = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1)


def clean(text: str) -> str:
    return text.replace("<image>", "").strip() or "x"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(texts, texts, st.integers(0, 2)), min_size=1, max_size=9))
def test_a_row_is_found_wherever_its_line_begins(tmp_path: Path, said: list[tuple[str, str, int]]) -> None:
    lines = ["\n" * blank + json.dumps({"question": clean(q), "answer": clean(a)}) for q, a, blank in said]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(lines), newline="\n")
    rows = RowFile(str(file), "")
    expected = read_rows(file, "")
    assert [rows[number] for number in range(len(rows))] == list(rows) == expected
    assert rows[-1] == expected[-1]
    assert rows[-1].place == expected[-1].place
    assert list(rows[1:]) == expected[1:]


def test_a_remote_file_is_read_too_and_faults_are_named(tmp_path: Path) -> None:
    with fsspec.open("memory://stream/rows.jsonl", "wb") as file:
        file.write(b'{"question": "q", "answer": "a"}\n{"question": "r", "answer": "b"}')
    assert [row.answer for row in RowFile("memory://stream/rows.jsonl", "memory://stream")] == ["a", "b"]
    (tmp_path / "bad.jsonl").write_text('{"question": "q"}\n[]\n')
    with pytest.raises(DataError) as error:
        RowFile(str(tmp_path / "bad.jsonl"), str(tmp_path))
    assert len(error.value.faults) == 2
    with pytest.raises(DataError, match="missing"):
        RowFile(str(tmp_path / "missing"), str(tmp_path))


def test_conversations_are_written_as_they_were_read_and_asked_turn_by_turn(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    turns = [("human", "<image>\nwhat?"), ("gpt", "this"), ("human", "and?"), ("gpt", "that")]
    record = {"id": "x", "image": "a.png", "conversations": [{"from": who, "value": said} for who, said in turns]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(record))
    (row,) = read_rows(tmp_path / "rows.jsonl", tmp_path)
    first, second = per_question([row])
    assert (first.id, first.question, first.answer, first.history, first.pictures) == ("x#0", "what?", "this", (), 1)
    assert (second.id, second.question, second.history) == ("x#1", "and?", (("what?", "this"),))
    assert [(each.role, each.text, each.pictures) for each in second.messages] == [
        ("user", "what?", 1),
        ("assistant", "this", 0),
    ]
    assert second.pictures == 0
    with writing(str(tmp_path / "again.jsonl"), str(tmp_path), Report()) as writer:
        writer.write(row)
    assert read_rows(tmp_path / "again.jsonl", tmp_path) == [row]


def test_what_is_scored_is_bounded_and_has_of_each_category_its_share(tmp_path: Path) -> None:
    lines = [{"question": f"q{n}", "answer": "a", "category": "rare" if n % 10 == 0 else "often"} for n in range(400)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    rows = RowFile(str(tmp_path / "rows.jsonl"), str(tmp_path))
    chosen = sample(rows, 100, 0)
    assert [sum(row.category == kind for row in chosen) for kind in ("rare", "often")] == [10, 90]
    assert sample(rows, 100, 0) == chosen != sample(rows, 100, 1)
    assert len(sample(rows, 1000, 0)) == 400


def test_several_files_are_one_sequence_and_its_sides_are_parts_of_it(tmp_path: Path) -> None:
    sets = []
    for name in ("a", "b"):
        lines = [{"question": f"{name}{n}", "answer": "x"} for n in range(20)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
        sets.append((str(tmp_path / f"{name}.jsonl"), ""))
    sides = read_sides(sets, None, 0.3, 0, None)
    questions = [[row.question for row in side] for side in (sides.train, sides.held_out)]
    assert sorted([*questions[0], *questions[1]]) == sorted(f"{name}{n}" for name in "ab" for n in range(20))
    assert [sides.train[n].question for n in range(len(sides.train))] == questions[0]
