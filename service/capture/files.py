"""Records -> JSON lines and images in a directory of bounded size. Blocks; knows nothing of requests.

    2026-05-01/images/<digest>.png       the pixels the model saw, with nothing else of the caller's file
    2026-05-01/questions-<host>.jsonl    {"image", "question", "answer", …}: a question and our answer
    2026-05-01/corrections-<host>.jsonl  the same with the right answer as "answer", and ours as "said"

Days are in UTC. The host is in the name so that replicas may share a directory. Each file is a set that
`python -m trainer data check --data FILE --images 2026-05-01/images` accepts. Days that are too old are removed, and
where all are too large the oldest first. Today's is not removed: when the room is used up nothing more is written.
"""

import errno
import hashlib
import io
import json
import os
import shutil
import socket
import threading
import time
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from PIL import Image

from service.answer_id import day_of
from service.capture.rules import KeptBy
from service.text import ANSWER_ENDS, is_unicode
from service.types import Release

# Longest text of a row, and what none may hold, as the trainer has them.
TEXT_LIMIT, _PLACEHOLDER = 2000, "<image>"
_SWEEP_S = 60.0
# Lines after which the search ends, at the next end of a day, for an id that does not tell its day.
_UNDATED = 50_000


@dataclass(frozen=True, slots=True)
class Record:
    """One row: a question with our answer, or a correction, where `answer` is the caller's and `said` ours.

    `picture` is the image that the model saw, `image` its file's name once it is written; a correction has the name
    alone. `release` is what chose the version of the adapter, None for the base. `day` is the day of the answer, as
    2026-05-01, `answered` its time in ISO 8601; None for a question that is not written yet. `kept_by` is the rule by
    which the answer was kept.
    """

    request: str
    tenant: str
    adapter: str | None
    version: str | None
    question: str
    answer: str
    confidence: float
    release: Release | None = None
    picture: Image.Image | None = None
    said: str | None = None
    comment: str | None = None
    image: str | None = None
    day: str | None = None
    answered: str | None = None
    kept_by: KeptBy | None = None

    def corrected(self, answer: str, comment: str | None) -> "Record":
        """The correction of this question's answer: `answer` is the right one."""
        return replace(self, answer=answer, said=self.answer, comment=comment)


def is_row_text(text: str) -> bool:
    """Whether the trainer takes this as a row's question or answer.

    It has a visible character, no `<image>` and no end token of a model, at most TEXT_LIMIT characters, and is Unicode.
    """
    visible = any(unicodedata.category(each)[0] not in "CZ" for each in text)
    marked = any(mark in text for mark in (_PLACEHOLDER, *ANSWER_ENDS))
    return visible and not marked and len(text) <= TEXT_LIMIT and is_unicode(text)


class EnoughToday(Exception):
    """This replica has kept as many questions of the day as --capture-a-day allows."""


class Files:
    """The directory: `days` are kept, in `size` bytes at most; this replica adds `a_day` questions a day at most."""

    def __init__(self, directory: Path, days: int, size: int, a_day: int | None = None) -> None:
        self.directory, self._days, self._size, self._a_day = directory, days, size, a_day
        self._written = ("", 0)  # a day, and the questions kept on it
        self._host = socket.gethostname()
        self._lock = threading.Lock()
        self._room = 0
        self._swept = -_SWEEP_S

    def save(self, record: Record) -> bool:
        """Write one row, and its picture if that is new; returns whether there was room for it.

        Raises:
            OSError: it cannot be written; a part of a row that was written is removed again.
            EnoughToday: it is a question, and `a_day` of them were kept on its day.
        """
        with self._lock:
            self._sweep()
            if self._room <= 0:
                return False
            day = record.day or _today().isoformat()
            folder = self.directory / day
            if record.said is None and self._a_day is not None and self._kept_on(day) >= self._a_day:
                raise EnoughToday
            (folder / "images").mkdir(0o700, parents=True, exist_ok=True)
            image = record.image if record.picture is None else self._picture(folder / "images", record.picture)
            kind = "questions" if record.said is None else "corrections"
            self._append(folder / f"{kind}-{self._host}.jsonl", _row(replace(record, image=image)))
            if record.said is None and self._a_day is not None:
                self._written = (day, self._kept_on(day) + 1)
            return True

    def find(self, request: str, tenant: str) -> Record | None:
        """A tenant's question that was kept last under the id `request`, on the day that the id tells; None: none was.

        An id that tells no day (made before 2026-11-29) is searched for in the newest days, some `_UNDATED` lines.

        Raises:
            OSError: the directory cannot be read.
        """
        known, left = day_of(request), _UNDATED
        for day in [known] if known else reversed(self._kept()):
            found = None
            for file in sorted((self.directory / day).glob("questions-*.jsonl")):
                with file.open("rb") as lines:
                    for line in lines:
                        left -= 1
                        if request.encode() in line:
                            each = record_of(json.loads(line), day)
                            found = each if (each.request, each.tenant) == (request, tenant) else found
            if found or (left <= 0 and not known):
                return found
        return None

    def _kept_on(self, day: str) -> int:
        """Questions that this replica kept on a day; counted in its file at first, since it may have been restarted."""
        if self._written[0] != day:
            file = self.directory / day / f"questions-{self._host}.jsonl"
            self._written = (day, file.read_bytes().count(b"\n") if file.exists() else 0)
        return self._written[1]

    def _picture(self, images: Path, picture: Image.Image) -> str:
        name = hashlib.sha256(f"{picture.mode}{picture.size}".encode() + picture.tobytes()).hexdigest() + ".png"
        if not (images / name).exists():
            buffer = io.BytesIO()
            picture.save(buffer, "PNG")
            part = images / f"{name}.{self._host}.part"
            try:
                part.write_bytes(buffer.getvalue())
                part.rename(images / name)
            finally:
                part.unlink(missing_ok=True)
            self._room -= len(buffer.getvalue())
        return name

    def _append(self, file: Path, row: dict[str, Any]) -> None:
        line = json.dumps(row).encode() + b"\n"
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            before = os.fstat(descriptor).st_size
            if os.write(descriptor, line) < len(line):
                os.ftruncate(descriptor, before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        finally:
            os.close(descriptor)
        self._room -= len(line)

    def _sweep(self) -> None:
        """Every _SWEEP_S seconds, remove days that are too old or too much, and find out how many bytes are left."""
        if time.monotonic() - self._swept < _SWEEP_S:
            return
        sizes = {day: _size(self.directory / day) for day in self._kept()}
        oldest = (_today() - timedelta(self._days)).isoformat()
        for day in sorted(sizes):
            if day <= oldest or (sum(sizes.values()) > self._size and day < _today().isoformat()):
                shutil.rmtree(self.directory / day)
                del sizes[day]
        self._room = self._size - sum(sizes.values())
        self._swept = time.monotonic()

    def _kept(self) -> list[str]:
        return sorted(days_in(self.directory))


def days_in(directory: Path) -> Iterator[str]:
    """The days that have a folder in `directory`, as 2026-05-01, in any order; other folders are passed over."""
    for folder in directory.iterdir() if directory.is_dir() else ():
        try:
            yield date.fromisoformat(folder.name).isoformat()
        except ValueError:
            continue


def _today() -> date:
    return datetime.now(UTC).date()


def _size(folder: Path) -> int:
    return sum(entry.stat().st_size for entry in folder.rglob("*") if entry.is_file())


def _row(record: Record) -> dict[str, Any]:
    fields = asdict(replace(record, picture=None, day=None))
    row = {name: value for name, value in fields.items() if value is not None}
    if record.said is None:
        row.pop("answered", None)  # a question's row has it as `at`
    return row | {"category": record.adapter or "base", "at": datetime.now(UTC).isoformat(timespec="milliseconds")}


def record_of(row: Mapping[str, Any], day: str) -> Record:
    """A row of the files of `day` as a Record, without its picture."""
    fields: dict[str, Any] = {name: row.get(name) for name in Record.__slots__}
    return Record(**fields | {"picture": None, "day": day, "answered": row.get("answered", row.get("at"))})
