"""`data check` names file, line and fault of whatever is wrong with a set, all at once, and never shows a traceback."""

import json
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import png
from trainer.__main__ import main
from trainer.data import files

GOOD = {"image": "a.png", "question": "q", "answer": "a"}


def said(*turns: tuple[Any, Any]) -> list[dict[str, Any]]:
    return [{"from": speaker, "value": value} for speaker, value in turns]


def talk(*turns: tuple[Any, Any], image: str | None = "a.png") -> dict[str, Any]:
    return {"image": image, "conversations": said(*turns)}


Q, A = ("human", "q"), ("gpt", "a")
# One line each, and a word of the fault.
MALFORMED: list[tuple[Any, str]] = [
    (b"{", "not JSON"),
    (b"}", "not JSON"),
    (b"{'image': 'a.png'}", "not JSON"),
    (b'{"image": "a.png",}', "not JSON"),
    (b'{"question": "q", "answer": "a"} {}', "not JSON"),
    (b"question,answer", "not JSON"),
    (b"\x00", "not JSON"),
    (b"[" * 100_000, "not JSON"),
    (b"1" * 5000, "not JSON"),
    (b"\xff\xfe", "not UTF-8"),
    ('{"question": "größer?", "answer": "a"}'.encode("latin-1"), "not UTF-8 text at byte 17"),
    ('{"question": "q"}'.encode("utf-16"), "not UTF-8"),
    (b'{"question": "\xed\xa0\x80", "answer": "a"}', "not UTF-8"),
    (b"[]", "not a JSON object"),
    (b"null", "not a JSON object"),
    (b"1", "not a JSON object"),
    (b'"text"', "not a JSON object"),
    ([GOOD], "not a JSON object"),
    ({}, "'question' is missing"),
    ({**GOOD, "question": ""}, "'question' is missing or empty"),
    ({**GOOD, "question": " \n"}, "'question' is missing or empty"),
    ({**GOOD, "question": None}, "'question' is missing or empty"),
    ({**GOOD, "question": 3}, "'question' is a number, not text"),
    ({**GOOD, "question": "<image>"}, "'question' is missing or empty"),
    ({"image": "a.png", "question": "q"}, "'answer' is missing"),
    ({**GOOD, "answer": ""}, "'answer' is missing or empty"),
    ({**GOOD, "answer": []}, "'answer' is missing or empty"),
    ({**GOOD, "answer": [None]}, "'answer' is missing or empty"),
    ({**GOOD, "answer": {"a": 1}}, "'answer' is an object, not text"),
    ({**GOOD, "answer": [["a"]]}, "'answer' is a list, not text"),
    ({**GOOD, "answer": "\u200b"}, "'answer' has no visible character"),
    ({**GOOD, "answer": "1 </s> 2"}, "which ends an answer"),
    (b'{"image": "a.png", "question": "q", "answer": NaN}', "NaN or infinite"),
    ({**GOOD, "pic": "a.png"}, "key 'pic' is not understood"),
    ({**GOOD, "image_path": "b.png"}, "both hold the image"),
    (["a.png", "q", "a"], "not a JSON object"),
    ({"question": "q", "answer": "a", "conversations": [{"from": "human", "value": "q"}]}, "has both 'conversations'"),
    (b"# my rows", "a comment"),
    ({"image": "a.png", "text": "a caption?"}, "--form captions"),
    ({**GOOD, "question": "<image><image> q"}, "2 <image> placeholders"),
    ({**GOOD, "answer": "a <image>"}, "1 <image> placeholders"),
    ({"question": "<image> q", "answer": "a"}, "1 <image> placeholders"),
    ({**GOOD, "question": "q" * 2001}, "2001 characters"),
    ({**GOOD, "answer": "a" * 5000}, "5000 characters"),
    ({**GOOD, "image": "missing.png"}, "not a file"),
    ({**GOOD, "image": ""}, "not a file's name"),
    ({**GOOD, "image": 3}, "not a file's name"),
    ({**GOOD, "image": []}, "an empty list"),
    ({**GOOD, "image": ["a.png", "a.png"]}, "has 2 images"),
    ({**GOOD, "image": {"bytes": "aGk="}}, "lies in the set itself"),
    ({**GOOD, "image": "."}, "not a file"),
    ({**GOOD, "image": "a\x00.png"}, "not a file"),
    ({**GOOD, "image": "a" * 5000}, "not a file"),
    ({**GOOD, "image": "\ud800"}, "not a file"),
    ({**GOOD, "image": "s3://bucket/a.png"}, "is a URL"),
    ({**GOOD, "image": "../rows.jsonl"}, "outside of"),
    ({**GOOD, "image": "/etc/passwd"}, "outside of"),
    ({**GOOD, "image": "empty.png"}, "is empty"),
    ({**GOOD, "image": "text.png"}, "not a PNG, JPEG, WebP"),
    ({**GOOD, "image": "cut.png"}, "truncated or corrupt"),
    ({**GOOD, "image": "strip.png"}, "crop it"),
    ({"image": "a.png", "conversations": None}, "not a list"),
    ({"image": "a.png", "conversations": []}, "not a list"),
    ({"image": "a.png", "conversations": {"from": "human"}}, "not a list"),
    ({"image": "a.png", "conversations": ["q", "a"]}, "not from human"),
    ({"image": "a.png", "conversations": [{}, {}]}, "not from human"),
    (talk(Q), "no answer"),
    (talk(Q, A, Q), "no answer"),
    (talk(Q, Q), "two human turns in a row"),
    (talk(Q, A, A), "two gpt turns in a row"),
    (talk(Q, A, Q, Q), "two human turns in a row"),
    (talk(A, Q), "not from human"),
    (talk(("tool", "q"), ("assistant", "a")), "not from human"),
    (talk(("user", "q"), ("system", "s"), ("assistant", "a")), "not from gpt"),
    (talk(("human", ""), A), "of turn 1 is missing"),
    (talk(Q, ("gpt", None)), "of turn 2 is missing"),
    (talk(Q, A, ("human", "<image> <image> q"), A), "of turn 3 has 2 <image>"),
    (talk(("human", "<image> q"), A, image=None), "of turn 1 has 1 <image>"),
]


def make(folder: Path, *lines: Any) -> Path:
    good = png()
    files = {"a.png": good, "empty.png": b"", "text.png": b"hello", "cut.png": good[: len(good) // 2]}
    for name, data in {**files, "strip.png": png(size=(301, 3))}.items():
        (folder / name).write_bytes(data)
    file = folder / "rows.jsonl"
    file.write_bytes(b"\n".join(each if isinstance(each, bytes) else json.dumps(each).encode() for each in lines))
    return file


def check(file: Path | str, images: Path | str) -> int:
    return main(["data", "check", "--data", str(file), "--images", str(images)])


@pytest.mark.parametrize(("line", "fault"), MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_line_is_named(line: Any, fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = make(tmp_path, {**GOOD, "id": "first"}, line, GOOD)
    assert check(file, tmp_path) == 2
    faults = [line for line in capsys.readouterr().err.splitlines() if line.startswith(str(file))]
    assert faults
    assert all(each.startswith(f"{file}:2: ") for each in faults)
    assert fault in faults[0]


def test_all_faults_are_shown_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(MALFORMED) > 50
    file = make(tmp_path, {**GOOD, "id": "first"}, *(line for line, _ in MALFORMED))
    assert check(file, tmp_path) == 2
    errors = capsys.readouterr().err
    assert all(f"{file}:{number}: " in errors for number in range(2, len(MALFORMED) + 2))


def test_one_line_may_have_several_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = make(tmp_path, {"image": "missing.png", "question": "", "answer": "<image>"})
    assert check(file, tmp_path) == 2
    assert capsys.readouterr().err.count(f"{file}:1: ") == 3


def test_a_good_set_is_summed_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = make(tmp_path, GOOD, b"", talk(("human", "<image>\nq"), A, ("human", "r"), A), {**GOOD, "image": None})
    assert check(file, tmp_path) == 0
    assert "3 rows, 1 images, 1 rows without an image" in capsys.readouterr().out


@pytest.mark.parametrize("file", ["missing.jsonl", "nosuch://x/rows.jsonl", "memory://missing.jsonl", "."])
def test_a_file_that_cannot_be_read_is_named(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(file, tmp_path) == 2
    assert file in capsys.readouterr().err


def test_rows_and_images_may_lie_in_any_store(capsys: pytest.CaptureFixture[str]) -> None:
    store = fsspec.filesystem("memory")
    store.pipe({"/set/rows.jsonl": json.dumps(GOOD).encode(), "/set/images/a.png": png()})
    assert check("memory://set/rows.jsonl", "memory://set/images") == 0
    assert "1 rows, 1 images" in capsys.readouterr().out


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
records = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("id", "image", "question", "answer", "conversations", "category"), json_values)
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(records.map(lambda each: json.dumps(each).encode()) | st.binary(max_size=40), max_size=4))
def test_any_bytes_end_in_a_status(tmp_path: Path, lines: list[bytes]) -> None:
    assert check(make(tmp_path, *lines), tmp_path) in (0, 2)


def test_what_check_has_read_no_later_command_reads_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(png())
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps(GOOD | {"question": f"{number}?"}) for number in range(3)))
    common = ["--data", str(rows), "--images", str(tmp_path), "--index", str(tmp_path / "index")]
    assert main(["data", "check", *common]) == 0

    def never(url: str) -> bytes:
        raise AssertionError(url)

    monkeypatch.setattr(files, "read", never)
    monkeypatch.setattr(files, "sha256", never)
    for command in ("check", "filter", "dedupe"):
        output = [] if command == "check" else ["--output", str(tmp_path / f"{command}.jsonl")]
        assert main(["data", command, *common, *output]) == 0
