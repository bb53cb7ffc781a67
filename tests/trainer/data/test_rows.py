"""Rows are read in both forms, every fault is named with its line, and no image is on both sides of a split."""

import errno
import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import png
from trainer.data.forms.reading import AUTO
from trainer.data.row import Row
from trainer.data.rows import read_rows
from trainer.data.split import held_out, read_sets, sample_of_both
from trainer.data.stream import RowFile
from trainer.data.write import Report, writing
from trainer.errors import DataError


def write(folder: Path, *records: object) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records), encoding="utf-8")
    (folder / "a.png").write_bytes(png())
    return file


def turns(*values: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[number % 2], "value": value} for number, value in enumerate(values)]


def test_both_forms_are_read(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        {
            "id": "x",
            "image": "a.png",
            "category": "c",
            "conversations": turns("<image>\nwhat?", "this", "and?", "that"),
        },
        {"image": "a.png", "question": "where?", "answer": "here"},
        {"question": "no picture?", "answer": "none"},
    )
    image = str(tmp_path / "a.png")
    assert read_rows(file, tmp_path) == [
        Row("x", image, "and?", "that", "c", history=(("what?", "this"),)),
        Row("rows-2", image, "where?", "here", "all"),
        Row("rows-3", None, "no picture?", "none", "all"),
    ]


def test_every_fault_is_reported_at_once_with_its_line(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "{not json",
        {"image": "missing.png", "question": "q", "answer": "a"},
        {"image": "a.png", "question": "q", "answer": "a"},
        {"image": "a.png", "question": "", "answer": "a"},
        {"image": "a.png", "conversations": turns("one", "two", "three")},
        {"image": "a.png", "conversations": [{"from": "human", "value": "a"}, {"from": "human", "value": "b"}]},
        "[]",
    )
    with pytest.raises(DataError) as error:
        read_rows(file, tmp_path)
    assert [fault.split(": ")[0] for fault in error.value.faults] == [f"{file}:{line}" for line in (1, 2, 4, 5, 6, 7)]


def test_a_folder_that_may_not_be_looked_into_is_no_missing_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, found = write(tmp_path, {"image": "a.png", "question": "q", "answer": "a"}), os.stat

    def refused(path: Any, **how: Any) -> os.stat_result:
        if str(path).endswith("a.png"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return found(path, **how)

    monkeypatch.setattr(os, "stat", refused)
    with pytest.raises(DataError, match=r"a\.png: cannot be read: PermissionError"):
        read_rows(file, tmp_path)


@pytest.mark.parametrize("name", ["a" * 300, "a\0", "a.png/b"])
def test_an_image_s_name_that_no_file_can_have_is_named_with_its_line(tmp_path: Path, name: str) -> None:
    file = write(tmp_path, {"image": name, "question": "q", "answer": "a"})
    with pytest.raises(DataError, match=r"rows\.jsonl:1: image .* is not a file in"):
        read_rows(file, tmp_path)


def test_one_folder_for_several_sets_is_named_where_an_image_is_not_in_it(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "kept/b.png").write_bytes(png("blue"))
    rows, kept = tmp_path / "rows.jsonl", tmp_path / "kept/rows.jsonl"
    rows.write_text('{"image": "a.png", "question": "q", "answer": "a"}')
    kept.write_text('{"image": "b.png", "question": "q", "answer": "a"}')
    folder, other = str(tmp_path), str(tmp_path / "kept")
    with pytest.raises(
        DataError, match=r"(?s)^--images .*once for each, in the order of --data.*'b\.png' is not a file"
    ):
        read_sets([(str(rows), folder), (str(kept), folder)], AUTO)
    assert len(read_sets([(str(rows), folder), (str(kept), other)], AUTO)) == 2
    with pytest.raises(DataError, match=r"^[^-].*'b\.png' is not a file"):
        read_sets([(str(kept), folder)], AUTO)


def test_a_file_that_is_missing_empty_or_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n\n")
    (tmp_path / "latin").write_bytes(b"\xff\xfe")
    for name in ("empty", "latin", "missing"):
        with pytest.raises(DataError, match=name):
            read_rows(tmp_path / name, tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=60) | st.text(max_size=60).map(str.encode), max_size=5))
def test_any_file_is_rows_or_named_faults(tmp_path: Path, lines: list[bytes]) -> None:
    file = tmp_path / "any.jsonl"
    file.write_bytes(b"\n".join(lines))
    with pytest.raises(DataError, match=r"any\.jsonl"):
        read_rows(file, tmp_path)


@given(st.integers(1, 60), st.integers(0, 5), st.floats(0.1, 0.9))
def test_a_split_keeps_images_whole_and_depends_on_the_seed_alone(images: int, seed: int, share: float) -> None:
    rows = [Row(f"{i}-{j}", f"{i}.png", "q", "a", "all") for i in range(images) for j in range(3)]
    digests = {f"{i}.png": f"{i:064x}" for i in range(images)}
    out = {row.id: held_out(row, share, seed, digests) for row in rows}
    assert all(len({out[f"{i}-{j}"] for j in range(3)}) == 1 for i in range(images))
    assert {row.id: held_out(row, share, seed, digests) for row in rows[::-1]} == out


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 80), st.integers(0, 5))
def test_a_sample_of_both_kinds_has_enough_of_each(pictured: int, textual: int, limit: int, seed: int) -> None:
    rows = [Row(f"{i}", f"{i}.png", "q", "a", "all") for i in range(pictured)]
    rows += [Row(f"t{i}", None, "q", "a", "all") for i in range(textual)]
    found = sample_of_both(rows, limit, seed)
    assert len({row.id for row in found}) == len(found) <= max(limit, 2)
    for count, kind in ((pictured, True), (textual, False)):
        assert sum((row.image is not None) == kind for row in found) >= max(min(count, limit // 4), 1)


_WORDS = st.text(st.characters(categories=("L", "Nd", "P", "Zs")), min_size=1, max_size=12).map(str.strip).filter(bool)
_EXCHANGE = st.tuples(_WORDS, _WORDS)
# A strategy for every field of a row but `place`, which says where it was read.
_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "id": st.sampled_from(["x", "12", "a b"]),
    "image": st.sampled_from([None, "a.png"]),
    "question": _WORDS,
    "answer": _WORDS,
    "category": _WORDS,
    "history": st.lists(_EXCHANGE, max_size=2).map(tuple),
    "answers": st.just(()) | st.lists(_WORDS, min_size=2, max_size=4).map(tuple),
    "rejected": st.none() | _WORDS,
    "groups": st.lists(_WORDS, max_size=2).map(tuple),
}


def test_every_field_of_a_row_is_in_the_round_trip() -> None:
    assert {field.name for field in fields(Row)} - {"place"} == _FIELDS.keys()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.fixed_dictionaries(_FIELDS).filter(lambda row: row["rejected"] != row["answer"]))
def test_a_row_that_is_written_is_read_back_with_all_its_fields(tmp_path: Path, given_: dict[str, Any]) -> None:
    """By `read_rows`, and of a list by a training, which copies its rows into a file of its own."""
    (tmp_path / "a.png").write_bytes(png())
    row = Row(**given_ | {"image": given_["image"] and str(tmp_path / given_["image"])})
    file = tmp_path / "written.jsonl"
    with writing(str(file), str(tmp_path), Report()) as writer:
        writer.write(row)
    images = str(tmp_path) if row.image else ""
    assert read_rows(file, images) == [row]
    (tmp_path / "list.json").write_text(f"[{file.read_text()}]")
    assert list(RowFile(str(tmp_path / "list.json"), images)) == [row]
