"""Rows that stay in their file: an index of where each begins, and a row read whenever one is asked for.

600,000 rows cost 12 bytes each here, and the names of their images once.
"""

import os
import shutil
import weakref
from abc import abstractmethod
from array import array
from collections.abc import Iterator, Sequence
from itertools import chain
from tempfile import TemporaryFile
from typing import IO, overload

import numpy as np
from numpy.typing import NDArray

from trainer.data import files
from trainer.data.rows import Parser, Row
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
    """The rows of a JSON lines file, in its order. Processes that fork share one open file: it is read by offset."""

    def __init__(self, data: str, images: str) -> None:
        """Read the file once, judge every line, and note where each row begins; a remote file is copied first.

        Raises:
            DataError: the file cannot be read, or rows are faulty, as `read_rows`.
        """
        self._file = _local(data)
        weakref.finalize(self, self._file.close)
        self._parser = Parser(images, data)
        starts, numbers, faults = array("q"), array("i"), list[str]()
        at = 0
        self._file.seek(0)
        for number, line in enumerate(self._file, start=1):
            if line.strip():
                found = self._parser.line(number, line.rstrip(b"\r\n"))
                faults += [f"{data}:{number}: {fault}" for fault in found.faults]
                starts.append(at)
                numbers.append(number)
            at += len(line)
        if not starts:
            faults.append(f"{data}: holds no rows")
        if faults:
            raise DataError(faults)
        self._starts = np.append(np.frombuffer(starts, dtype=np.int64), at)
        self._numbers = np.frombuffer(numbers, dtype=np.int32)

    def __len__(self) -> int:
        return len(self._numbers)

    def _row(self, place: int) -> Row:
        start, end = self._starts[place : place + 2]
        line = os.pread(self._file.fileno(), int(end - start), int(start))
        # The next line may be blank, and be part of what was read.
        (row,) = self._parser.line(int(self._numbers[place]), line.strip(b"\r\n ").split(b"\n", 1)[0]).rows
        return row


class Joined(_Rows):
    """Several sequences of rows, one behind the other."""

    def __init__(self, parts: Sequence[Sequence[Row]]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _row(self, place: int) -> Row:
        part = int(np.searchsorted(self._ends, place, side="right"))
        return self._parts[part][place - (int(self._ends[part - 1]) if part else 0)]

    def __iter__(self) -> Iterator[Row]:
        return chain.from_iterable(self._parts)


class Chosen(_Rows):
    """Some rows of a sequence, by their places."""

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
