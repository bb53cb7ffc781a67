"""What the service keeps of corrections (--capture) -> pairs: the correction is chosen, the answer given is rejected.

A folder is what the service writes, a folder for each day with files of corrections and images; see
service/capture/files.py. One such file is read like any other.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainer.data.forms.recognised import Recognised, Record
from trainer.errors import DataError

NEEDS = frozenset({"question", "answer", "said"})
_FILES = "corrections-*.jsonl"


def convert(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """A pair of the correction and what was said; where they differ only in case or spaces both are the correction.

    Such a pair is then refused, since nothing can be learnt from it. Image, question and category stay.
    """
    right, said = record.get("answer"), record.get("said")
    if isinstance(right, str) and isinstance(said, str) and right.casefold().split() == said.casefold().split():
        said = right
    found = {"id": record.get("request"), "chosen": right, "rejected": said}
    return found | {key: record[key] for key in ("image", "question", "category") if record.get(key) is not None}


def recognise(source: str, folder: Path) -> Recognised:
    """All corrections below a folder of the service's, of every day and replica, or of one day.

    Where a question was corrected several times the last correction stands.

    Raises:
        DataError: there are none, or a file cannot be read.
    """
    files = sorted([*folder.glob(_FILES), *folder.glob(f"*/{_FILES}")])
    if not files:
        raise DataError([f"{source}: holds no {_FILES}, which the service writes there with --capture {source}"])
    last: dict[Any, tuple[Path, int]] = {}
    count = 0
    for file, number, value in _lines(files):
        last[_question(value, file, number)] = (file, number)
        count += 1

    def records() -> Iterator[Record]:
        for count, (file, number, value) in enumerate(_lines(files), start=1):
            if last[_question(value, file, number)] == (file, number):
                yield Record(count, f"{file.relative_to(folder)}:{number}", _placed(value, file.parent, folder))

    return Recognised(
        form="feedback",
        evidence=f"{len(files)} files of corrections",
        records=records,
        mended=("feedback: a correction that a later one of the same question replaced",) * (count - len(last)),
        convert=convert,
        folder=source,
    )


def _lines(files: list[Path]) -> Iterator[tuple[Path, int, Any]]:
    for file in files:
        try:
            with file.open(encoding="utf-8", errors="replace") as lines:
                for number, line in enumerate(lines, start=1):
                    yield file, number, _parsed(line)
        except OSError as error:
            raise DataError([f"{file}: cannot be read: {type(error).__name__}: {error}"]) from error


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None  # named as no JSON object when it is judged


def _question(value: Any, file: Path, number: int) -> Any:
    """What corrections of one question have in common: tenant and request. A line that is no record is by itself."""
    request = value.get("request") if isinstance(value, Mapping) else None
    return (value.get("tenant"), request) if isinstance(request, str) else (file, number)


def _placed(value: Any, day: Path, folder: Path) -> Any:
    """The record with its picture named relative to the folder of all days."""
    image = value.get("image") if isinstance(value, Mapping) else None
    if not isinstance(image, str):
        return value
    return {**value, "image": str((day / "images" / image).relative_to(folder))}
