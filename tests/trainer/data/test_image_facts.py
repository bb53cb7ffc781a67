"""One reading of each image gives every command what it needs: kept, in processes, and the same either way."""

import io
import logging
import os
from pathlib import Path

import pytest
from PIL import Image, ImageFilter

from tests.conftest import png
from trainer.data import files, image_facts
from trainer.data.image_facts import ImageFacts, facts_of
from trainer.data.index import image_digests
from trainer.data.row import Row
from trainer.errors import DataError


def folder_of(tmp_path: Path, count: int) -> list[str]:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.png").write_bytes(png("blue", (64 + number, 64)))
    return [str(folder / f"{number}.png") for number in range(count)]


def test_in_processes_the_looks_are_those_of_one_process_in_the_images_order(tmp_path: Path) -> None:
    images = folder_of(tmp_path, 150)
    alone = list(image_facts.facts_of_all(images, None, processes=1))
    assert [image for image, _ in alone] == images
    assert list(image_facts.facts_of_all(images, None, processes=2)) == alone
    assert len({found.sha256 for _, found in alone}) == 150


def test_what_was_read_once_is_not_read_again_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    images = folder_of(tmp_path, 5)
    first = list(image_facts.facts_of_all(images, tmp_path / "kept"))
    assert "5 read, 0 known from before" in caplog.text
    read: list[str] = []
    whole = files.read

    def noted(url: str) -> bytes:
        read.append(url)
        return whole(url)

    monkeypatch.setattr(files, "read", noted)
    assert list(image_facts.facts_of_all(images, tmp_path / "kept")) == first
    assert read == []
    Path(images[2]).write_bytes(png("red"))
    changed = list(image_facts.facts_of_all(images, tmp_path / "kept"))
    assert read == [images[2]]
    assert [a == b for a, b in zip(first, changed, strict=True)] == [True, True, False, True, True]


def test_digests_are_not_read_for_where_looks_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = folder_of(tmp_path, 4)
    expected = {image: found.sha256 for image, found in image_facts.facts_of_all(images, tmp_path / "kept")}

    def never(url: str) -> str:
        raise AssertionError(url)

    monkeypatch.setattr(files, "sha256", never)
    rows = [Row(image, image, "q", "a", "all") for image in images]
    assert image_digests(rows, tmp_path / "kept") == expected


def test_a_file_that_cannot_be_read_says_why_and_is_read_again(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.png")
    ((_, found),) = image_facts.facts_of_all([missing], tmp_path / "kept")
    assert "cannot be read" in str(found.fault)
    (tmp_path / "missing.png").write_bytes(png())
    ((_, found),) = image_facts.facts_of_all([missing], tmp_path / "kept")
    assert found.fault is None


def test_what_would_be_refused_has_the_reason(tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(png()[:80])
    ((_, found),) = image_facts.facts_of_all([str(tmp_path / "cut.png")], tmp_path / "kept")
    assert "truncated" in str(found.fault)
    assert (
        found
        == dict(image_facts.facts_of_all([str(tmp_path / "cut.png")], tmp_path / "kept"))[str(tmp_path / "cut.png")]
    )


def test_a_look_is_kept_as_it_is() -> None:
    found = facts_of(png("green", (90, 50)))
    assert ImageFacts.of(found.packed) == found
    assert (found.width, found.height, len(found.small)) == (90, 50, 3 * 16 * 16)


def test_sizes_are_those_of_the_file_as_it_is_shown() -> None:
    """A JPEG is decoded at a part of its size, and EXIF turns it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (4000, 3000), "navy").save(buffer, "JPEG", exif=exif)
    found = facts_of(buffer.getvalue())
    assert (found.width, found.height) == (3000, 4000)


def test_blur_darkness_and_blankness_show_in_the_figures(tmp_path: Path) -> None:
    sharp = Image.effect_noise((200, 200), 60).convert("RGB")

    def of(image: Image.Image) -> ImageFacts:
        image.save(tmp_path / "x.png")
        return facts_of((tmp_path / "x.png").read_bytes())

    plain, blurred, dark = of(sharp), of(sharp.filter(ImageFilter.GaussianBlur(3))), of(sharp.point(lambda v: v // 8))
    assert blurred.sharpness < plain.sharpness / 10
    assert dark.brightness < plain.brightness / 6
    assert of(Image.new("RGB", (200, 200), "white")).contrast == 0


def killed(_images: list[str]) -> None:
    os._exit(1)


def test_a_process_that_is_killed_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = folder_of(tmp_path, 200)
    monkeypatch.setattr(image_facts, "_read_all", killed)
    with pytest.raises(DataError, match="was killed"):
        list(image_facts.facts_of_all(images, None, processes=2))
