"""Each file of tests/forms, in the form of a public set or a tool, is read word for word.

docs/reference/data-forms.md says how.

`python -m tests.trainer.data.test_forms` writes the table anew: read what changed before you keep it.
"""

import copy
import gzip
import io
import json
import logging
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from service.errors import ServiceError
from tests.conftest import ROOT, png
from trainer.config.data import CheckOptions, ImportOptions
from trainer.data.check import check
from trainer.data.forms import json_values
from trainer.data.forms.reading import Reading
from trainer.data.import_ import import_rows
from trainer.data.row import Row
from trainer.data.rows import Source
from trainer.data.write import Report, writing
from trainer.errors import DataError, OptionError, TrainerError

FORMS = ROOT / "tests/forms"
DOCUMENT = ROOT / "docs/reference/data-forms.md"
BEGIN, END = "<!-- what tests/forms comes to -->", "<!-- end -->"
COLOURS = ("red", "green", "blue", "black", "orange", "purple")
# Sets whose pictures lie in them, or beside them: they are imported, the others checked where they are.
IMPORTED = "13-huggingface"
NAMES = {
    "04-image-paths": (
        *("UPPER.PNG", "sub dir/a b.png", "100%.png", "a#1.png", "图.png", "Foto Größe.png", "a[1].png"),
        *("noext", "q?x.png", "a*.png"),
    ),
    "10-scienceqa": ("train/1/image.png",),
    "11-vqav2": tuple(f"train2014/COCO_train2014_{number:012}.jpg" for number in range(1, 5)),
    "12-other-sets": ("documents/xnbl0037_1.png", "1.jpg", "000000000000.jpg"),
    "14-wrong-image-key": tuple(f"{number}.png" for number in range(8)),
    "15-tiny-sets": tuple(f"{number}.png" for number in range(8)),
    "17-long-answers": tuple(f"{number}.png" for number in range(4)),
    "19-missing-one-percent": tuple(f"{number:03}.png" for number in range(39, 44)),
    "29-held-out-is-training": tuple(f"{number}.png" for number in range(4)),
    "31-non-ascii-answers": tuple(f"{number}.png" for number in range(4)),
}


def kinds() -> dict[str, bytes]:
    """A picture of each kind that people have, good and not."""

    def saved(image: Image.Image, file_format: str, **how: object) -> bytes:
        image.save(buffer := io.BytesIO(), file_format, **how)
        return buffer.getvalue()

    photo = Image.effect_noise((300, 200), 60).convert("RGB")
    turned = Image.Exif()
    turned[0x0112] = 6
    jpeg = saved(photo, "JPEG")
    return {
        "grey.png": saved(photo.convert("L"), "PNG"),
        "cmyk.jpg": saved(photo.convert("CMYK"), "JPEG"),
        "one-bit.png": saved(photo.convert("1"), "PNG"),
        "palette.png": saved(photo.convert("P"), "PNG"),
        "i16.png": saved(Image.new("I;16", (64, 64), 30000), "PNG"),
        "exif6.jpg": saved(photo, "JPEG", exif=turned.tobytes()),
        "png-as-jpg.jpg": png(),
        "gif.gif": saved(photo, "GIF"),
        "cut-half.jpg": jpeg[: len(jpeg) // 2],
        "html.jpg": b"<html>404</html>",
        "lfs.jpg": b"version https://git-lfs.github.com/spec/v1\n",
        "zero.jpg": b"",
        "tiff.tif": saved(photo, "TIFF"),
        "wide-receipt.png": saved(Image.new("RGB", (2000, 15)), "PNG"),
    }


def pictures(folder: str, there: Path) -> None:
    """The pictures that the files of a folder name."""
    named = {f"{number:03}.png": png(COLOURS[number]) for number in range(6)}
    more = kinds() if folder.startswith("20") else {name: png() for name in NAMES.get(folder, ())}
    for name, data in (named | more).items():
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_bytes(data)


def cases() -> Iterator[Path]:
    """Every file of tests/forms, and of Hugging Face every directory."""
    for folder in sorted(FORMS.iterdir()):
        yield from sorted(folder.iterdir())


def outcome(source: Path, there: Path) -> tuple[str, str]:
    """What becomes of a file, in one of three words, and the sentences that a user sees, shortened."""
    images = there / "images"
    try:
        if source.parent.name == IMPORTED:
            options = ImportOptions(source=str(source), images=str(there / "new"), output=str(there / "out.jsonl"))
            said = import_rows(options)
        else:
            chosen = "" if source.parent.name.startswith("28") else str(images)
            said = check(CheckOptions(data=str(source), images=chosen, index=None))
    except TrainerError as error:
        lines = [line for line in str(error).splitlines() if not line.startswith(("0 rows", "form:"))]
        first = lines if source.parent.name.startswith(("13", "20")) else lines[:1]
        return "refused", shortened(first, source, there)
    except ServiceError as error:
        return "refused", str(error)
    lines = said.splitlines()
    form = re.sub(r"^form: (\S+) \((.*)\)$", r"\1: \2", lines[0])
    words = [line for line in lines[1:] if re.search(r"^mended|have no image$|ids are there|dropped|kept,", line)]
    return "with a word" if words else "understood", shortened([form, *words], source, there)


def shortened(lines: list[str], source: Path, there: Path) -> str:
    """Sentences in one cell of a table, without this machine's paths and the numbers of what is only drawn here."""
    text = "; ".join(lines).replace(f"{source.parent}/", "").replace(f"{there}/", "").replace(f"{source}/", "")
    text = re.sub(r"[0-9a-f]{20}\.(png|jpg|tif|gif)", r"DIGEST.\1", text)
    return (text[:700] + "…" if len(text) > 700 else text).replace("|", "\\|").replace("\n", " ")


def table(there: Path) -> str:
    """The rows of the table, one for each case."""
    rows = ["| file | | what is said |", "|---|---|---|"]
    for folder in sorted({case.parent.name for case in cases()}):
        pictures(folder, there / folder / "images")
        for case in sorted((FORMS / folder).iterdir()):
            what, said = outcome(case, there / folder)
            rows.append(f"| {folder}/{case.name} | {what} | {said} |")
    return "\n".join(rows)


def in_document() -> str:
    """The table as the document has it."""
    return DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].strip()


def test_every_form_is_read_as_the_document_says(tmp_path: Path) -> None:
    found, written = table(tmp_path).splitlines(), in_document().splitlines()
    assert len(found) > 230
    assert [line for line in found if line not in written] == []
    assert [line for line in written if line not in found] == []


GOOD: dict[str, dict[str, Any]] = {
    "flat": {"image": "a.png", "question": "which colour?", "answer": "red"},
    "llava": {
        "image": "a.png",
        "conversations": [{"from": "human", "value": "<image>\nwhich colour?"}, {"from": "gpt", "value": "red"}],
    },
    "messages": {
        "images": ["a.png"],
        "messages": [{"role": "user", "content": "which colour?"}, {"role": "assistant", "content": "red"}],
    },
    "parts": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "which colour?"},
                    {"type": "image_url", "image_url": {"url": "a.png"}},
                ],
            },
            {"role": "assistant", "content": "red"},
        ]
    },
    "vizwiz": {"image": "a.png", "question": "which colour?", "answers": [{"answer": "red"}] * 3, "answerable": 1},
}
scalars = st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.sampled_from(["", " ", "a.png", "x", "red"])
wrapped: Any = st.sampled_from([lambda v: [v], lambda v: {"value": v}, lambda v: {"path": v}, lambda v: [[v]], str])


@st.composite
def spoilt(draw: st.DrawFn) -> dict[str, Any]:
    """A good record with something renamed, dropped, nested or mistyped, at any depth."""
    record = copy.deepcopy(GOOD[draw(st.sampled_from(sorted(GOOD)))])
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []:
            places.append((value, key))
            walk(value[key])

    walk(record)
    holder, key = places[draw(st.integers(0, len(places) - 1))]
    match draw(st.sampled_from(["rename", "drop", "nest", "mistype"])):
        case "rename" if isinstance(holder, dict):
            holder[
                draw(st.sampled_from([f"{key}s", str(key).upper(), f"my_{key}", "pic", "text", "data", "source"]))
            ] = holder.pop(key)
        case "nest":
            holder[key] = draw(wrapped)(holder[key])
        case "mistype":
            holder[key] = draw(scalars)
        case _:
            del holder[key]
    return record


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(record=spoilt(), beside=st.booleans())
def test_no_spoilt_record_becomes_text_alone_in_silence(tmp_path: Path, record: dict[str, Any], beside: bool) -> None:
    """It is refused by name, or has its picture and the right answer; where it lost its picture, that is counted."""
    (tmp_path / "a.png").write_bytes(png())
    file = tmp_path / "rows.jsonl"
    good = [GOOD["flat"]] if beside else []
    file.write_text("".join(json.dumps(each) + "\n" for each in (*good, record, record)))
    try:
        source = Source(str(file), str(tmp_path))
        rows = list(source.rows())
    except DataError:
        return
    blind = sum(row.image is None for row in rows)
    assert blind == 0 or (beside and f"{blind} of {len(rows)} rows have no image" in source.summary())
    assert all(row.image in (None, f"{tmp_path}/a.png") for row in rows)
    for row in rows:
        plain = row.answer in ("red", "x", "a.png", "true", "false") or _is_number(row.answer)
        assert plain or "as Python writes them" in source.summary()


def _is_number(text: str) -> bool:
    try:
        return isinstance(json.loads(text), int | float)
    except ValueError:
        return False


def rows_of(folder: Path, *records: Any, images: Path | None = None, **how: Any) -> list[Row]:
    """The rows of JSON lines with these records, whose pictures lie in `images`, else in the folder."""
    (folder / "a.png").write_bytes(png())
    (folder / "rows.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return list(Source(str(folder / "rows.jsonl"), str(images or folder), Reading(**how)).rows())


def test_strict_refuses_what_would_be_mended(tmp_path: Path) -> None:
    record = {"image": ["a.png"], "question": "q", "answer": 7}
    (row,) = rows_of(tmp_path, record)
    assert (row.image, row.answer) == (str(tmp_path / "a.png"), "7")
    with pytest.raises(DataError) as error:
        rows_of(tmp_path, record, strict=True)
    assert [fault.partition(": ")[2] for fault in error.value.faults] == [
        "paths: a list of one: --strict refuses it",
        "answers: numbers written as text: --strict refuses it",
    ]
    (tmp_path / "packed.gz").write_bytes(gzip.compress(b'{"question": "q", "answer": "a"}'))
    with pytest.raises(DataError, match="unpacked from gzip: --strict"):
        Source(str(tmp_path / "packed.gz"), "", Reading(strict=True))


def test_keys_of_one_s_own_are_named_or_left_out(tmp_path: Path) -> None:
    record = {"bild": "a.png", "frage": "q", "antwort": "a", "note": "n"}
    columns = {"image": "bild", "question": "frage", "answer": "antwort"}
    (row,) = rows_of(tmp_path, record, columns=columns, ignore=frozenset({"note"}))
    assert (row.image, row.question, row.answer) == (str(tmp_path / "a.png"), "q", "a")
    with pytest.raises(DataError, match="key 'note' is not understood"):
        rows_of(tmp_path, record, columns=columns)


def test_a_folder_that_is_missing_is_told_once(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        rows_of(tmp_path, *[GOOD["flat"]] * 50, images=tmp_path / "nowhere")
    assert len(error.value.faults) == 1
    assert "nowhere: is no folder" in str(error.value)


def test_many_faults_of_a_kind_are_counted(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        rows_of(tmp_path, *({**GOOD["flat"], "image": f"{number}.png"} for number in range(500)))
    assert len(error.value.faults) == 21
    assert error.value.faults[-1].startswith("… and 480 more: image is not a file")


def test_answers_of_several_are_kept_with_the_one_most_gave(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, {"image": "a.png", "question": "q", "answers": ["dark red", "red", "red"]})
    assert (row.answer, row.answers) == ("red", ("dark red", "red", "red"))
    with writing(str(tmp_path / "again.jsonl"), str(tmp_path), Report()) as writer:
        writer.write(row)
    assert list(Source(str(tmp_path / "again.jsonl"), str(tmp_path)).rows()) == [replace(row, place=row.place)]


def test_one_picture_of_many_rows_is_written_once(tmp_path: Path) -> None:
    source, images = str(FORMS / "13-huggingface/same-image-many-rows"), tmp_path / "images"
    import_rows(ImportOptions(source=source, images=str(images), output=str(tmp_path / "out.jsonl")))
    assert len(list(images.iterdir())) == 1
    assert len(list(Source(str(tmp_path / "out.jsonl"), str(images)).rows())) == 50


@pytest.mark.parametrize("field", ["image", "question", "answer", "answers", "conversations", "id", "category"])
def test_a_value_nested_deep_is_a_fault_and_no_traceback(tmp_path: Path, field: str) -> None:
    for depth in (50, 400, 900):
        deep = json.loads("[" * depth + "]" * depth)
        with pytest.raises(DataError, match=r"rows\.jsonl:1"):
            rows_of(tmp_path, {**GOOD["flat"], field: deep})


def test_a_split_is_chosen_by_its_name(tmp_path: Path) -> None:
    options = {"source": str(FORMS / "13-huggingface/dict-splits"), "output": str(tmp_path / "out.jsonl")}
    said = import_rows(ImportOptions(**options, images=str(tmp_path / "images"), split="validation"))
    assert "1 rows written" in said
    with pytest.raises(OptionError, match="has test, train, validation"):
        import_rows(ImportOptions(**options, images=str(tmp_path / "images"), split="dev"))


def test_half_of_a_vqav2_pair_asks_for_the_other(tmp_path: Path) -> None:
    pictures("11-vqav2", tmp_path / "images")
    lone = tmp_path / "lone"
    lone.mkdir()
    shutil.copy(FORMS / "11-vqav2/questions.json", lone)
    with pytest.raises(DataError, match="no file beside it is its answers: name that file by --annotations"):
        Source(str(lone / "questions.json"), str(tmp_path / "images"))
    how = Reading(annotations=str(FORMS / "11-vqav2/annotations.json"))
    rows = list(Source(str(lone / "questions.json"), str(tmp_path / "images"), how).rows())
    assert [(row.answer, len(row.answers)) for row in rows][:1] == [("red", 10)]


@given(st.lists(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=9) | st.lists(st.floats()))))
def test_values_are_read_one_by_one_as_they_are_read_at_once(values: list[Any]) -> None:
    text = json.dumps(values)
    scanner = json_values.Scanner(io.StringIO(text))
    assert json.dumps([member.value for member in scanner.list_or_values()]) == text
    spread = json_values.Scanner(io.StringIO("\n".join(json.dumps(value, indent=1) for value in values)))
    assert json.dumps([member.value for member in spread.list_or_values()]) == text


if __name__ == "__main__":
    from tempfile import TemporaryDirectory

    logging.disable()
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    with TemporaryDirectory() as folder:
        DOCUMENT.write_text(
            f"{before}{BEGIN}\n\n{table(Path(folder))}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8"
        )
    sys.exit()
