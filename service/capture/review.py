"""Reads kept questions back for their tenant: answers to be judged, least confident first, and right answers as a file.

Blocks; knows nothing of requests. What is read at once is bounded: LINES lines, the newest days first, and for a file
ARCHIVE_ROWS rows and ARCHIVE_BYTES of pictures. Older rows are left out; they stay in the directory, which the trainer
reads too.
"""

import base64
import heapq
import json
import logging
import re
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from service.capture.files import Record, days_in, record_of

LINES = 50_000
ARCHIVE_ROWS, ARCHIVE_BYTES = 5_000, 256_000_000
_IMAGE = re.compile(r"[0-9a-f]{64}\.png")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Answers that nobody judged yet: some of them, `waiting` as the number of all, and what was judged.

    `pictures` has each answer's picture as a data URL, or None. `right` counts the right answers that callers sent, by
    adapter, "" being the base. `whole` is False where there were over LINES lines and the oldest were not read.
    """

    answers: tuple[Record, ...]
    pictures: tuple[str | None, ...]
    waiting: int
    right: Counter[str]
    whole: bool


@dataclass(slots=True)
class _Budget:
    """Lines that may still be read."""

    left: int
    whole: bool = True


def waiting(directory: Path, tenant: str, limit: int, skip: int, adapter: str | None) -> Waiting:
    """The `limit` least confident answers of a tenant that nobody judged, after the first `skip`; None: of any adapter.

    Raises:
        OSError: the directory cannot be read.
    """
    budget, right, open_ = _Budget(LINES), Counter[str](), list[Record]()
    for day in _newest_first(directory):
        judged = {row["request"]: row for row in _rows(directory / day, "corrections", tenant, budget)}
        right.update(row.get("adapter") or "" for row in judged.values())
        for row in _rows(directory / day, "questions", tenant, budget):
            if row["request"] not in judged and adapter in (None, row.get("adapter")):
                open_.append(record_of(row, day))
    least = heapq.nsmallest(skip + limit, open_, key=lambda record: (record.confidence, record.request))[skip:]
    pictures = tuple(_data_url(directory, record) for record in least)
    return Waiting(tuple(least), pictures, len(open_), right, budget.whole)


def archive(directory: Path, tenant: str) -> IO[bytes]:
    """A ZIP file of the tenant's right answers, newest days first, as the trainer reads them: `rows.jsonl`, `images/`.

    A question that was corrected twice is there once, as it was corrected last. The file has no name and is gone once
    it is closed.

    Raises:
        OSError: the directory cannot be read, or has no room for the file.
    """
    directory.mkdir(0o700, parents=True, exist_ok=True)
    packed: IO[bytes] = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - its reader closes it
    try:
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as into:
            into.writestr("rows.jsonl", "".join(json.dumps(row) + "\n" for row in _right(directory, tenant, into)))
    except BaseException:
        packed.close()
        raise
    packed.seek(0)
    return packed


def _right(directory: Path, tenant: str, into: zipfile.ZipFile) -> Iterator[dict[str, Any]]:
    """The row of each right answer; its picture was written to `into` before."""
    budget, size, count, there = _Budget(LINES), 0, 0, set[str]()
    for day in _newest_first(directory):
        last = {row["request"]: row for row in _rows(directory / day, "corrections", tenant, budget)}
        for row in last.values():
            name = row.get("image")
            if count == ARCHIVE_ROWS or size > ARCHIVE_BYTES:
                return
            if name is not None and name not in there:
                picture = _picture(directory / day, name)
                if picture is None:
                    continue
                into.writestr(f"images/{name}", picture)
                there.add(name)
                size += len(picture)
            count += 1
            yield row


def _newest_first(directory: Path) -> list[str]:
    return sorted(days_in(directory), reverse=True)


def _rows(folder: Path, kind: str, tenant: str, budget: _Budget) -> Iterator[dict[str, Any]]:
    """The tenant's rows of one day, file by file as they were written, until the budget is used up."""
    marked = json.dumps({"tenant": tenant})[1:-1].encode()
    for file in sorted(folder.glob(f"{kind}-*.jsonl")):
        with file.open("rb") as lines:
            for line in lines:
                if budget.left == 0:
                    budget.whole = False
                    return
                budget.left -= 1
                if marked in line and (row := _row(line, file)) is not None and row["tenant"] == tenant:
                    yield row


def _row(line: bytes, file: Path) -> dict[str, Any] | None:
    """A row of a file; None where the line is none, as an editor may have left it."""
    with suppress(ValueError):
        row = json.loads(line)
        if isinstance(row, dict) and {"tenant", "request", "question", "answer", "confidence"} <= row.keys():
            return row
    log.warning("%s holds a line that is no row of ours: it is left out", file)
    return None


def _picture(folder: Path, name: str) -> bytes | None:
    """A kept picture's PNG file; None where its name is not one that `Files` gives, or the file is gone."""
    if not _IMAGE.fullmatch(name):
        return None
    try:
        return (folder / "images" / name).read_bytes()
    except FileNotFoundError:
        return None


def _data_url(directory: Path, record: Record) -> str | None:
    picture = _picture(directory / (record.day or ""), record.image or "")
    return None if picture is None else f"data:image/png;base64,{base64.b64encode(picture).decode()}"
