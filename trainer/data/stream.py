"""Rows that stay in their file: an index of where each begins, and a row read whenever one is asked for.

Memory holds 12 bytes of each row, and the names of the images once.
"""

import json
import os
import shutil
import weakref
from abc import abstractmethod
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import astuple, replace
from itertools import chain
from tempfile import TemporaryFile
from typing import IO, overload

import numpy as np
from numpy.typing import NDArray

from trainer.data import files
from trainer.data.faults import Fault, Faults
from trainer.data.forms.reading import AUTO, Reading
from trainer.data.row import Row
from trainer.data.rows import Line, Source
from trainer.errors import DataError


class _Rows(Sequence[Row]):
    """Rows that are found by their places; a slice of them is read no sooner than its rows are asked for."""

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        if isinstance(index, slice):
            return Chosen(self, np.arange(len(self))[index])
        return self._row(range(len(self))[index])

    def __iter__(self) -> Iterator[Row]:
        return map(self._row, range(len(self)))

    @abstractmethod
    def _row(self, place: int) -> Row:
        """The row at a place from 0 on."""


class RowFile(_Rows):
    """The rows of a set, in its order. Processes that fork share one open file: it is read by offset.

    Of JSON lines that file is the set's own. Of other forms it is a copy of the rows as read, without a name.
    """

    def __init__(self, data: str, images: str, how: Reading = AUTO) -> None:
        """Read the set once, judge every record, and note where each begins; a remote file is copied first.

        Raises:
            DataError: the file cannot be read, or rows are faulty, as `read_rows`.
        """
        self.source = Source(data, images, how)
        self._starts, self._numbers = np.zeros(1, np.int64), np.zeros(0, np.int32)
        self._file = _local(data) if self.source.found.lines else TemporaryFile()  # noqa: SIM115 - lives as the rows
        weakref.finalize(self, self._file.close)
        faults, starts, numbers = Faults(), array("q"), array("i")
        for start, line in self._indexed() if self.source.found.lines else self._copied():
            starts.append(start)
            numbers.append(line.number)
            for fault in line.faults:
                faults.add(f"{data}:{line.where}", fault)
        if not len(numbers):
            faults.add(data, Fault("holds no rows"))
        if faults:
            raise faults.error()
        self._starts = np.append(np.frombuffer(starts, dtype=np.int64), self._file.seek(0, os.SEEK_END))
        self._numbers = np.frombuffer(numbers, dtype=np.int32)

    def _indexed(self) -> Iterator[tuple[int, Line]]:
        """Each line's offset, and what it holds."""
        at = 0
        self._file.seek(0)
        for number, line in enumerate(self._file, start=1):
            if line.strip():
                yield at, self.source.counted(self.source.parser.line(number, line.rstrip(b"\r\n")))
            at += len(line)

    def _copied(self) -> Iterator[tuple[int, Line]]:
        """Each record, its row written to the copy, and at which offset."""
        at = 0
        for line in self.source.lines():
            yield at, line
            for row in line.rows:
                at += self._file.write(json.dumps(astuple(row)).encode() + b"\n")
        self._file.flush()

    def __len__(self) -> int:
        return len(self._numbers)

    def _row(self, place: int) -> Row:
        start, end = self._starts[place : place + 2]
        line = os.pread(self._file.fileno(), int(end - start), int(start))
        if not self.source.found.lines:
            return _again(line)
        # The next line may be blank, and be part of what was read.
        (row,) = self.source.parser.line(int(self._numbers[place]), line.strip(b"\r\n ").split(b"\n", 1)[0]).rows
        return row


def _again(line: bytes) -> Row:
    """A row as `RowFile` copied it."""
    row = Row(*json.loads(line))
    return replace(
        row,
        history=tuple((question, answer) for question, answer in row.history),
        answers=tuple(row.answers),
        groups=tuple(row.groups),
    )


class Joined(_Rows):
    """Several sequences of rows as one, in order."""

    def __init__(self, parts: Sequence[Sequence[Row]]) -> None:
        self.parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _row(self, place: int) -> Row:
        part = int(np.searchsorted(self._ends, place, side="right"))
        return self.parts[part][place - (int(self._ends[part - 1]) if part else 0)]

    def __iter__(self) -> Iterator[Row]:
        return chain.from_iterable(self.parts)


class Chosen(_Rows):
    """The rows of a sequence at the given indices, in the order of the indices."""

    def __init__(self, rows: Sequence[Row], places: NDArray[np.int64]) -> None:
        self._rows = rows
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def _row(self, place: int) -> Row:
        return self._rows[int(self._places[place])]


def _local(data: str) -> IO[bytes]:
    """The file, open for reading at any place; a copy without a name where it lies elsewhere."""
    if path := files.local(data):
        try:
            return path.open("rb")
        except OSError as error:
            raise DataError([f"{data}: cannot be read: {type(error).__name__}: {error}"]) from error
    copy = TemporaryFile()  # noqa: SIM115 - lives as long as the rows
    with files.reading(data) as source:
        shutil.copyfileobj(source, copy)
    copy.flush()
    return copy
