r"""JSON lines -> rows. Two forms are read, LLaVA's conversations and the flat one; every fault is found in one pass.

    {"id", "image", "category"?, "conversations": [{"from": "human", "value": "<image>\n…"}, {"from": "gpt", "value"}]}
    {"id"?, "image", "category"?, "question", "answer"}

Each human-gpt pair of a conversation is one row: visual question answering asks them independently.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.errors import DataError

PLACEHOLDER = "<image>"


@dataclass(frozen=True, slots=True)
class Row:
    """One question and its answer; `image` is an existing file, or None for a text question."""

    id: str
    image: Path | None
    question: str
    answer: str
    category: str


def read_rows(file: Path, images: Path) -> list[Row]:
    """Read every row of a JSON lines file whose image names are relative to `images`.

    Raises:
        DataError: the file cannot be read, or rows are faulty; the message has a line for each, as file:line: fault.
    """
    rows: list[Row] = []
    faults: list[str] = []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError([f"{file}: cannot be read as UTF-8 text: {error}"]) from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.extend(_parse(line, f"{file.stem}-{number}", images))
        except ValueError as fault:
            faults.append(f"{file}:{number}: {fault}")
    if not rows and not faults:
        faults.append(f"{file}: holds no rows")
    if faults:
        raise DataError(faults)
    return rows


def _parse(line: str, default_id: str, images: Path) -> Iterator[Row]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    image = _image(record.get("image"), images)
    pairs = list(_pairs(record))
    for turn, (question, answer) in enumerate(pairs):
        id_ = str(record.get("id", default_id)) + (f"#{turn}" if len(pairs) > 1 else "")
        yield Row(id_, image, question, answer, str(record.get("category", "all")))


def _image(name: Any, images: Path) -> Path | None:
    if name is None:
        return None
    if not isinstance(name, str) or not (images / name).is_file():
        raise ValueError(f"image {name!r} is not a file in {images}")
    return images / name


def _pairs(record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if "conversations" not in record:
        yield _text(record, "question"), _text(record, "answer")
        return
    turns = record["conversations"]
    if not isinstance(turns, list) or not turns or len(turns) % 2:
        raise ValueError("conversations is not a list of human and gpt turns in pairs")
    for number, (human, gpt) in enumerate(zip(turns[::2], turns[1::2], strict=True)):
        if not isinstance(human, dict) or not isinstance(gpt, dict):
            raise ValueError("a turn of conversations is not an object")
        if (human.get("from"), gpt.get("from")) != ("human", "gpt"):
            raise ValueError(f"turns {2 * number + 1} and {2 * number + 2} are not from human and gpt")
        yield _text(human, "value"), _text(gpt, "value")


def _text(record: dict[str, Any], field: str) -> str:
    value = record.get(field)
    text = value.replace(PLACEHOLDER, "").strip() if isinstance(value, str) else ""
    if not text:
        raise ValueError(f"field {field!r} is missing or empty")
    return text
