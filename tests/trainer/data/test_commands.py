"""dedupe, split, filter and mix through the command line: what they write, `data check` accepts."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.conftest import png
from trainer.__main__ import main
from trainer.data.mix import common_folder, shares
from trainer.data.row import Row
from trainer.data.rows import read_rows
from trainer.data.write import Report, writing
from trainer.errors import OptionError


def make(folder: Path, rows: list[dict[str, Any]], **images: bytes) -> list[str]:
    folder.mkdir(exist_ok=True, parents=True)
    for name, data in images.items():
        (folder / f"{name}.png").write_bytes(data)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["--data", str(folder / "rows.jsonl"), "--images", str(folder)]


def asked(image: str | None, question: str = "q", answer: str = "a") -> dict[str, Any]:
    return {"image": image and f"{image}.png", "question": question, "answer": answer}


def checked(file: Path, images: Path) -> list[Any]:
    assert main(["data", "check", "--data", str(file), "--images", str(images)]) == 0
    return read_rows(file, images)


def jpeg(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png(colour, (96, 96)))).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def test_dedupe_knows_a_copy_from_another_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        asked("red"), asked("red", "Q?"), asked("copy"), asked("copy", "other"), asked("blue"),
        asked(None), asked(None, answer="b"),
    ]  # fmt: skip
    red, blue = png("red", (96, 96)), png("blue", (96, 96))
    paths = make(tmp_path, rows, red=red, copy=jpeg("red"), blue=blue)
    output = tmp_path / "out.jsonl"
    assert main(["data", "dedupe", *paths, "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    kept = [(row.image and Path(row.image).name, row.question) for row in checked(output, tmp_path)]
    assert kept == [("red.png", "q"), ("red.png", "other"), ("blue.png", "q"), (None, "q")]
    assert "2 x dropped, asked before and answered the same: rows-2, rows-3" in printed
    assert "1 x dropped, asked before and answered otherwise: rows-7" in printed


def test_split_writes_two_files_that_share_no_picture_under_any_name(tmp_path: Path) -> None:
    names = [f"i{number}" for number in range(40)]
    rows = [asked(name, question) for question in "qr" for name in names]
    paths = make(tmp_path, rows, **{name: png(size=(64 + at // 2, 64)) for at, name in enumerate(names)})
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    command = ["data", "split", *paths, "--output", str(train), "--held-out", str(test), "--holdout", "0.3"]
    command += ["--index", str(tmp_path / "index")]
    assert main(command) == 0
    before = train.read_bytes()
    left, right = checked(train, tmp_path), checked(test, tmp_path)
    assert len(left) + len(right) == 80
    seen, unseen = ({Path(row.image or "").read_bytes() for row in rows} for rows in (left, right))
    assert not seen & unseen
    assert len(seen | unseen) == 20
    assert main(command) == 0
    assert train.read_bytes() == before


def test_a_split_does_not_look_at_names(tmp_path: Path) -> None:
    """ScienceQA's images are all called image.png, each in a folder of its own."""
    rows = [{"image": f"{number}/image.png", "question": "q", "answer": "a"} for number in range(40)]
    paths = make(tmp_path, rows_with_files(tmp_path, rows))
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    files = ["--output", str(train), "--held-out", str(test), "--index", str(tmp_path / "index")]
    assert main(["data", "split", *paths, *files, "--holdout", "0.3"]) == 0
    assert 4 < len(test.read_text().splitlines()) < 20


def rows_with_files(folder: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for number, row in enumerate(rows):
        (folder / row["image"]).parent.mkdir()
        (folder / row["image"]).write_bytes(png(size=(64 + number, 64)))
    return rows


def test_a_split_with_an_empty_side_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = make(tmp_path, [asked("a")], a=png())
    files = ["--output", str(tmp_path / "train"), "--held-out", str(tmp_path / "test")]
    assert main(["data", "split", *paths, *files]) == 2
    assert "--holdout" in capsys.readouterr().err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.png", "rows.jsonl"]


def test_filter_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = {
        "good": png(), "small": png(size=(20, 40)), "strip": png(size=(400, 50)), "blank": png("white"),
        "broken": png()[:60],
    }  # fmt: skip
    paths = make(tmp_path, [asked(name) for name in (*images, None)], **images)
    output = tmp_path / "out.jsonl"
    assert main(["data", "filter", *paths, "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert [row.id for row in checked(output, tmp_path)] == ["rows-1", "rows-6"]
    for fault, row in (("--min-side", 2), ("--max-aspect", 3), ("blank", 4), ("truncated or corrupt", 5)):
        assert any(fault in line and f"rows-{row}" in line for line in printed.splitlines())


def test_filter_drops_faulty_rows_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = make(tmp_path, [asked("a"), asked("missing"), {"question": "no answer?"}], a=png())
    output = tmp_path / "out.jsonl"
    assert main(["data", "filter", *paths, "--output", str(output), "--min-contrast", "0"]) == 0
    printed = capsys.readouterr().out
    assert "dropped, image is not a file in" in printed
    assert "2: 'missing.png'" in printed
    assert "field 'answer' is missing or empty: 3" in printed
    assert [row.id for row in checked(output, tmp_path)] == ["rows-1"]


def test_faulty_rows_leave_no_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = make(tmp_path, [asked("a"), asked("missing")], a=png())
    assert main(["data", "dedupe", *paths, "--output", str(tmp_path / "out.jsonl")]) == 2
    assert "rows.jsonl:2: image 'missing.png'" in capsys.readouterr().err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.png", "rows.jsonl"]


def mix(tmp_path: Path, *options: str) -> list[str]:
    one = make(tmp_path / "one", [asked("a", str(number)) for number in range(30)], a=png())
    two = make(tmp_path / "two", [asked("a", str(number)) for number in range(60)], a=png("blue"))
    output = ["--output", str(tmp_path / "mix.jsonl")]
    return ["data", "mix", *one, "--weight", "1", *two, "--weight", "1", *output, *options]


def test_a_mix_follows_weights_and_seed(tmp_path: Path) -> None:
    texts = []
    for seed in ("0", "0", "1"):
        assert main(mix(tmp_path, "--seed", seed)) == 0
        texts.append((tmp_path / "mix.jsonl").read_bytes())
        rows = checked(tmp_path / "mix.jsonl", tmp_path)
        assert [sum(f"/{name}/" in row.image for row in rows) for name in ("one", "two")] == [30, 30]
    assert texts[0] == texts[1] != texts[2]


def test_a_mix_that_cannot_be_names_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, name in (
        (["--rows", "90"], "--rows"),
        (["--weight", "2"], "--weight"),
        (["--weight", "nan"], "--weight"),
    ):
        assert main(mix(tmp_path, *options)) == 2
        assert name in capsys.readouterr().err


@given(st.lists(st.tuples(st.integers(0, 500), st.floats(0.01, 100)), min_size=1, max_size=5))
def test_no_set_gives_more_than_it_has(sets: list[tuple[int, float]]) -> None:
    sizes, weights = [size for size, _ in sets], [weight for _, weight in sets]
    counts = shares(sizes, weights, None)
    assert all(0 <= count <= size for count, size in zip(counts, sizes, strict=True))
    total = sum(counts)
    assert all(abs(c - total * w / sum(weights)) <= 2 for c, w in zip(counts, weights, strict=True))


def test_the_common_folder_of_paths_and_urls() -> None:
    assert common_folder(["/a/b", "/a/c"]) == "/a"
    assert common_folder(["s3://b/x/one", "s3://b/x/two"]) == "s3://b/x"
    assert common_folder(["one", "two"]) == "."
    for folders in (["s3://b/x", "/a"], ["s3://b/x", "gs://b/x"], ["a", "/b"]):
        with pytest.raises(OptionError, match="--images"):
            common_folder(folders)


def test_charts_that_differ_are_not_copies(tmp_path: Path) -> None:
    command = ["data", "charts", "--output", str(tmp_path), "--charts", "60", "--questions", "1"]
    assert main(command) == 0
    paths = ["--data", str(tmp_path / "charts.jsonl"), "--images", str(tmp_path / "images")]
    assert main(["data", "dedupe", *paths, "--output", str(tmp_path / "out.jsonl")]) == 0
    assert (tmp_path / "out.jsonl").read_text().count("\n") == 60


def test_ids_that_are_all_the_same_are_numbered_without_counting_from_one_each_time(tmp_path: Path) -> None:
    report = Report()
    with writing(str(tmp_path / "rows.jsonl"), "", report) as writer:
        for number in range(30_000):  # counted from one each time this takes minutes
            writer.write(Row("same", None, "q", str(number), "all"))
        writer.write(Row("same~2", None, "q", "a", "all"))
    ids = [json.loads(line)["id"] for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert ids[:3] == ["same", "same~2", "same~3"]
    assert ids[-1] == "same~2~2"
    assert len(set(ids)) == len(ids)
