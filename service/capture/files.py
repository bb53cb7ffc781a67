"""Records -> JSON lines and images in a directory that does not grow without bound. Blocks; knows no request.

    2026-05-01/images/<digest>.png       the pixels the model saw, with nothing else of the caller's file
    2026-05-01/questions-<host>.jsonl    {"image", "question", "answer", …}: what was asked, and what we said
    2026-05-01/corrections-<host>.jsonl  the same with the right answer, and ours as "said"

Days are UTC's, the host is in the name so that replicas may share a directory. Each file is a set that
`python -m trainer data check --data FILE --images 2026-05-01/images` accepts. Whole days go when they are too old or,
oldest first, when all are too large; today's stays, and takes no more.
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
# Lines that are looked through, to the end of a day, for an id that does not say its day.
_UNDATED = 50_000


@dataclass(frozen=True, slots=True)
class Record:
    """One row; `said` is our answer where `answer` is a caller's correction of it, whose picture is `image` already.

    `picture` is what the model saw; `image` is its name, once it has one. `release` is by what the version of the
    adapter was chosen, None for the base. `answered` is when our answer was given, in ISO 8601; of a question that is
    not yet written it is None. `kept_by` is by what rule the answer was kept.
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
        """The same question with its right answer."""
        return replace(self, answer=answer, said=self.answer, comment=comment)


def is_row_text(text: str) -> bool:
    """Whether a row of training data may have this as its question or answer."""
    visible = any(unicodedata.category(each)[0] not in "CZ" for each in text)
    marked = any(mark in text for mark in (_PLACEHOLDER, *ANSWER_ENDS))
    return visible and not marked and len(text) <= TEXT_LIMIT and is_unicode(text)


class EnoughToday(Exception):
    """As many questions were kept today as may be."""


class Files:
    """The directory, kept for `days` and within `size` bytes; this replica adds `a_day` questions a day at most."""

    def __init__(self, directory: Path, days: int, size: int, a_day: int | None = None) -> None:
        self.directory, self._days, self._size, self._a_day = directory, days, size, a_day
        self._written = ("", 0)  # a day, and the questions kept on it
        self._host = socket.gethostname()
        self._lock = threading.Lock()
        self._room = 0
        self._swept = -_SWEEP_S

    def save(self, record: Record) -> bool:
        """Write one row, and its picture if it is new; whether there was room.

        Raises:
            OSError: it cannot be written; no half of a row stays.
            EnoughToday: it is a question, and one too many.
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
        """The newest question that was kept under an id for a tenant, among those of the day that the id says.

        An id that says none, as those of before 2026-11-29, is looked for among the newest `_UNDATED` lines.
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
        """Questions that this replica kept on a day; read from its file once, for it may have been started again."""
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
        """Remove what is too old or too much, and see how much room is left; now and then."""
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
    """The days that something is kept of, as 2026-05-01; other folders are not ours."""
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
        row.pop("answered", None)  # it is told by `at`
    return row | {"category": record.adapter or "base", "at": datetime.now(UTC).isoformat(timespec="milliseconds")}


def record_of(row: Mapping[str, Any], day: str) -> Record:
    """The record that a row of a day is of."""
    fields: dict[str, Any] = {name: row.get(name) for name in Record.__slots__}
    return Record(**fields | {"picture": None, "day": day, "answered": row.get("answered", row.get("at"))})
