"""Rows -> JSON lines, of the flat form where one question was asked, and a report of what was left out and why."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from trainer.data import files
from trainer.data.row import Row
from trainer.data.rows import SPEAKERS

SHOWN = 5


class Report:
    """Counts of rows written, and of rows dropped or changed by reason, with the first few names of each."""

    def __init__(self) -> None:
        self.kept = 0
        self.notes: Counter[str] = Counter()
        self._names: dict[str, list[str]] = {}

    def note(self, reason: str, name: str) -> None:
        """Count one more row, or line, under `reason`, and keep the first names to show."""
        self.notes[reason] += 1
        names = self._names.setdefault(reason, [])
        if len(names) < SHOWN:
            names.append(name)

    def __str__(self) -> str:
        lines = [f"{self.kept} rows written"]
        for reason, count in self.notes.most_common():
            more = ", …" if count > SHOWN else ""
            lines.append(f"{count} x {reason}: {', '.join(self._names[reason])}{more}")
        return "\n".join(lines)


class Writer:
    """Writes rows one by one; an id that was there before gets a number, so that ids stay unique."""

    def __init__(self, file: IO[bytes], images: str, report: Report) -> None:
        self._file = file
        self._images = images
        self._report = report
        # Of each id that was written, the last number behind it.
        self._ids: dict[str, int] = {}

    def write(self, row: Row) -> None:
        """Append a row; its image lies under the writer's folder."""
        id_ = row.id
        while id_ in self._ids:
            self._ids[row.id] += 1
            id_ = f"{row.id}~{self._ids[row.id]}"
        if id_ != row.id:
            self._report.note("kept, with a number behind an id that was there before", row.id)
        self._ids[id_] = 1
        record: dict[str, Any] = {"id": id_, "category": row.category}
        if row.groups:
            record["counted_in"] = list(row.groups)
        if row.history:
            values = [text for exchange in row.exchanges for text in exchange]
            record["conversations"] = [{"from": SPEAKERS[n % 2], "value": value} for n, value in enumerate(values)]
        else:
            record |= {"question": row.question, "answer" if row.rejected is None else "chosen": row.answer}
        if row.answers:
            record["answers"] = list(row.answers)
        if row.rejected is not None:
            record["rejected"] = row.rejected
        if row.image is not None:
            record = {"image": files.relative(row.image, self._images), **record}
        self._file.write(json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
        self._report.kept += 1


@contextmanager
def writing(url: str, images: str, report: Report) -> Iterator[Writer]:
    """A writer for the file at `url`, which appears when the block ends well.

    Raises:
        DataError: it cannot be written.
    """
    with files.writing(url) as file:
        yield Writer(file, images, report)
