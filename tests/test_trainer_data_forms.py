"""Each file of tests/forms, in the form of a public set or a tool, is read as docs/data-forms.md says, word for word.

`python -m tests.test_trainer_data_forms` writes the table anew: read what changed before you keep it.
"""

import copy
import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from service.errors import ServiceError
from tests.conftest import ROOT, png
from trainer.data.check import check
from trainer.data.config import CheckOptions, ImportOptions
from trainer.data.import_ import import_rows
from trainer.data.rows import Source
from trainer.errors import DataError, TrainerError

FORMS = ROOT / "tests/forms"
DOCUMENT = ROOT / "docs/data-forms.md"
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
    assert blind == 0 or (beside and f"{blind} of {len(rows)} rows have no image" in source.said())
    assert all(row.image in (None, f"{tmp_path}/a.png") for row in rows)
    for row in rows:
        plain = row.answer in ("red", "x", "a.png", "true", "false") or _is_number(row.answer)
        assert plain or "as Python writes them" in source.said()


def _is_number(text: str) -> bool:
    try:
        return isinstance(json.loads(text), int | float)
    except ValueError:
        return False


if __name__ == "__main__":
    from tempfile import TemporaryDirectory

    logging.disable()
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    with TemporaryDirectory() as folder:
        DOCUMENT.write_text(
            f"{before}{BEGIN}\n\n{table(Path(folder))}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8"
        )
    sys.exit()
