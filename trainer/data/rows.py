r"""JSON lines -> rows, a line at a time. Two forms are read, LLaVA's conversations and the flat one.

    {"id"?, "image"?, "category"?, "conversations": [{"from": "human", "value": "<image>\n…"}, {"from": "gpt", …}]}
    {"id"?, "image"?, "category"?, "question", "answer"}

A line is one row: a conversation of one question and answer, or of several, where each may rest on those before it.
Every fault of every line is found in one pass; pixels are not looked at (check.py does).
"""

import json
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from service.types import Turn
from trainer.data import files
from trainer.errors import DataError

PLACEHOLDER = "<image>"
SPEAKERS = ("human", "gpt")


@dataclass(frozen=True, slots=True)
class Row:
    """A conversation about an image, or about none; most are one question and its answer.

    `image` is the path or URL of a file. `question` and `answer` are the last exchange, `history` the ones before it,
    in order. `place` is where it was read, "file:line".
    """

    id: str
    image: str | None
    question: str
    answer: str
    category: str
    place: str = field(default="", compare=False)
    history: tuple[tuple[str, str], ...] = ()

    @property
    def exchanges(self) -> tuple[tuple[str, str], ...]:
        """All questions with their answers, in order."""
        return (*self.history, (self.question, self.answer))

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The history as the service takes it: the first question shows the image."""
        return tuple(
            turn
            for number, (question, answer) in enumerate(self.history)
            for turn in (
                Turn("user", question, int(self.image is not None and number == 0)),
                Turn("assistant", answer),
            )
        )

    @property
    def pictures(self) -> int:
        """How many images the last question itself shows; a history shows them earlier."""
        return int(self.image is not None and not self.history)


@dataclass(frozen=True, slots=True)
class Line:
    """What one line holds: its row, or its faults. `id` is the one the line itself gives."""

    number: int
    id: str | None
    rows: tuple[Row, ...]
    faults: tuple[str, ...]


def asked(rows: Iterable[Row]) -> list[Row]:
    """Every question of every conversation as a row of its own, with the true answers before it as its history."""
    return [
        replace(row, id=f"{row.id}#{turn}", question=question, answer=answer, history=row.history[:turn])
        if row.history
        else row
        for row in rows
        for turn, (question, answer) in enumerate(row.exchanges)
    ]


def read_rows(file: str | Path, images: str | Path) -> list[Row]:
    """Every row of a JSON lines file whose image names are relative to `images`.

    Raises:
        DataError: the file cannot be read, or rows are faulty; the message has a line for each, as file:line: fault.
    """
    return list(scan(file, images))


def scan(file: str | Path, images: str | Path) -> Iterator[Row]:
    """`read_rows` one by one; faults are raised behind the last row.

    Raises:
        DataError: as `read_rows`.
    """
    faults: list[str] = []
    empty = True
    for line in read_lines(file, images):
        empty = False
        faults += [f"{file}:{line.number}: {fault}" for fault in line.faults]
        yield from line.rows
    if empty:
        faults.append(f"{file}: holds no rows")
    if faults:
        raise DataError(faults)


def read_lines(file: str | Path, images: str | Path) -> Iterator[Line]:
    """What each line holds, good or not; blank lines are passed over.

    Raises:
        DataError: the file cannot be read.
    """
    parser = Parser(str(images), str(file))
    for number, line in enumerate(files.lines(str(file)), start=1):
        if line.strip():
            yield parser.line(number, line)


class Parser:
    """Judges one record after the other; remembers which images exist, so that each is looked up once."""

    def __init__(self, images: str, source: str) -> None:
        self._images = images
        self._source = source
        self._exists: dict[str, bool] = {}

    def line(self, number: int, line: bytes) -> Line:
        """Parse the JSON text of one record."""
        try:
            return self.record(number, json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8")))
        except UnicodeDecodeError as error:
            fault = f"not UTF-8 text at byte {error.start + 1}: save the file as UTF-8"
        except (ValueError, RecursionError) as error:
            fault = f"not JSON: {error}"
        return Line(number, None, (), (fault,))

    def record(self, number: int, record: Any) -> Line:
        """Judge one record."""
        if not isinstance(record, dict):
            return Line(number, None, (), ("not a JSON object",))
        faults: list[str] = []
        image = self._image(record.get("image"), faults)
        pairs = _pairs(record, faults)
        given = _label(record, "id", faults)
        id_ = given or f"{files.stem(self._source)}-{number}"
        category = _label(record, "category", faults) or "all"
        if faults:
            return Line(number, given, (), tuple(faults))
        *history, (question, answer) = pairs
        row = Row(id_, image, question, answer, category, f"{self._source}:{number}", tuple(history))
        return Line(number, given, (row,), ())

    def _image(self, name: Any, faults: list[str]) -> str | None:
        if name is None:
            return None
        if not isinstance(name, str) or not name:
            faults.append(f"image {name!r} is not a file's name")
            return None
        if posixpath.isabs(name) or posixpath.normpath(name).split("/")[0] == "..":
            faults.append(f"image {name!r} lies outside of {self._images}: name it relative to that folder")
            return None
        url = files.join(self._images, name)
        if url not in self._exists:
            self._exists[url] = files.is_file(url)
        if not self._exists[url]:
            faults.append(f"image {name!r} is not a file in {self._images}")
        return url


def _pairs(record: dict[str, Any], faults: list[str]) -> list[tuple[str, str]]:
    image = record.get("image") is not None
    if "conversations" not in record:
        return [(_text(record, "question", int(image), faults), _text(record, "answer", 0, faults))]
    turns = record["conversations"]
    if not isinstance(turns, list) or not turns:
        faults.append("conversations is not a list of human and gpt turns")
        return []
    texts = []
    for number, turn in enumerate(turns):
        speaker, other = SPEAKERS[number % 2], SPEAKERS[1 - number % 2]
        found = turn.get("from") if isinstance(turn, dict) else None
        if found != speaker:
            twice = f"two {other} turns in a row" if number and found == other else f"not from {speaker}"
            faults.append(f"turn {number + 1} of conversations is from {found!r}: {twice}")
            return []
        texts.append(_text(turn, "value", int(image and number == 0), faults, f" of turn {number + 1}"))
    if len(texts) % 2:
        faults.append("the last turn of conversations has no answer")
    return list(zip(texts[::2], texts[1::2], strict=False))


def _text(record: dict[str, Any], field: str, placeholders: int, faults: list[str], where: str = "") -> str:
    value = record.get(field)
    found = value.count(PLACEHOLDER) if isinstance(value, str) else 0
    text = value.replace(PLACEHOLDER, "").strip() if isinstance(value, str) else ""
    if not text:
        faults.append(f"field {field!r}{where} is missing or empty")
    if found > placeholders:
        faults.append(f"field {field!r}{where} has {found} {PLACEHOLDER} placeholders, at most {placeholders} can be")
    if _broken(text):
        faults.append(f"field {field!r}{where} holds a NUL or half a surrogate pair: save it as valid Unicode")
    return text


def _label(record: dict[str, Any], field: str, faults: list[str]) -> str | None:
    value = record.get(field)
    if value is None or value == "":
        return None
    if not isinstance(value, str | int | float) or _broken(str(value)):
        faults.append(f"field {field!r} is neither text nor a number: {value!r:.100}")
    return str(value)


def _broken(text: str) -> bool:
    """What no tokenizer takes, and the service refuses."""
    return "\0" in text or any("\ud800" <= character <= "\udfff" for character in text)
