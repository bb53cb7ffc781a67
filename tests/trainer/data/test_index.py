"""Digests of images: read once however many runs ask, read again when a file changes, and no disk is needed."""

from pathlib import Path

import pytest

from tests.conftest import png
from trainer.data import files
from trainer.data.digests import data_digest
from trainer.data.index import image_digests
from trainer.data.kept import FILE
from trainer.data.row import Row
from trainer.data.split import read_sides
from trainer.errors import DataError, OptionError


def row(image: Path | None, question: str = "q") -> Row:
    return Row(str(image), str(image) if image else None, question, "a", "all", f"rows:{image}")


def test_a_second_run_reads_only_what_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [tmp_path / f"{number}.png" for number in range(5)]
    for number, image in enumerate(images):
        image.write_bytes(png(size=(64 + number, 64)))
    rows = [row(image) for image in images for _ in range(3)]
    first = image_digests(rows, tmp_path / "kept")
    read: list[str] = []
    sha256 = files.sha256

    def noted(url: str) -> str:
        read.append(url)
        return sha256(url)

    monkeypatch.setattr(files, "sha256", noted)
    assert image_digests(rows, tmp_path / "kept") == first
    assert read == []
    images[2].write_bytes(png("blue"))
    changed = image_digests(rows, tmp_path / "kept")
    assert read == [str(images[2])]
    assert [name for name in first if first[name] != changed[name]] == read
    assert list(changed) == [str(image) for image in images]


@pytest.mark.parametrize("content", [b"no table", None])
def test_where_nothing_can_be_kept_digests_are_the_same_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes | None
) -> None:
    (tmp_path / "a.png").write_bytes(png())
    expected = image_digests([row(tmp_path / "a.png")], None)
    kept = tmp_path / "kept"
    if content is None:
        kept.touch()  # a file where the folder would be
    else:
        kept.mkdir()
        (kept / FILE).write_bytes(content * 100)
    assert image_digests([row(tmp_path / "a.png")], kept) == expected
    assert "not kept" in caplog.text


def test_images_that_cannot_be_read_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        image_digests([row(tmp_path / "a.png"), row(tmp_path / "b.png"), row(None)], None)
    assert [str(tmp_path / name) in fault for name, fault in zip(("a.png", "b.png"), error.value.faults, strict=True)]


def held_out(folder: Path, trained: str, asked: str) -> tuple[int, int]:
    """Two sets in `folder`, rows as "image:question"; how many rows are trained on and held out."""
    for name, text in (("train", trained), ("test", asked)):
        lines = [f'{{"image": "{i}.png", "question": "{q}", "answer": "a"}}' for i, q in map(parted, text.split())]
        (folder / f"{name}.jsonl").write_text("\n".join(line.replace('"image": ".png", ', "") for line in lines))
    sides = read_sides([(str(folder / "train.jsonl"), str(folder))], str(folder / "test.jsonl"), 0.1, 0, None)
    assert data_digest(sides.train, sides.digests) != data_digest(sides.held_out, sides.digests)
    return len(sides.train), len(sides.held_out)


def parted(word: str) -> list[str]:
    return word.split(":")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Of these a and copy hold the same bytes, b others."""
    for name, colour in (("a", "red"), ("copy", "red"), ("b", "blue")):
        (tmp_path / f"{name}.png").write_bytes(png(colour))
    return tmp_path


def test_held_out_rows_about_what_is_trained_on_are_left_out_and_named(
    pictures: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert held_out(pictures, "a:x :what", "copy:y b:x :WHAT :why") == (2, 2)
    assert "2 of 4 rows are left out" in caplog.text
    assert "test.jsonl:1 is" in caplog.text
    assert "train.jsonl:1 of --data" in caplog.text


@pytest.mark.parametrize("asked", ["a:x", "copy:other a:x"])
def test_held_out_rows_that_are_all_trained_on_are_refused(pictures: Path, asked: str) -> None:
    with pytest.raises(OptionError, match="--eval-data"):
        held_out(pictures, "a:x b:x", asked)
