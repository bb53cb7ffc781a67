"""Tables with a header, their columns parted by commas, semicolons, tabs or bars: CSV, TSV, and what Excel saves so."""

import csv
from collections.abc import Iterator
from itertools import islice
from typing import Any

from trainer.data.forms import sets, text
from trainer.data.forms.keys import FIELD, fold
from trainer.data.forms.reading import Reading
from trainer.data.forms.recognised import FIRST, Recognised, Record
from trainer.data.forms.text import LONGEST, Text
from trainer.errors import DataError, OptionError

# What is asked of pictures that come with classes alone.
CLASSES = "Which classes does the image show?"
_DELIMITERS = ",;\t|"


def delimiter(head: str) -> str | None:
    """What parts the columns of a table that begins like this, told by its header; None: no header of a table."""
    line = _header(head)
    found = max(_DELIMITERS, key=line.count)
    return found if line.count(found) else None


def is_table(head: str, columns: dict[str, str]) -> bool:
    """Whether a text begins with a header that names a field of a row."""
    if not (found := delimiter(head)):
        return False
    names = [name.strip().strip('"') for name in _header(head).split(found)]
    return any(fold(name) in FIELD for name in names) or (set(columns.values()) <= set(names) and bool(columns))


def recognise(found: Text, how: Reading) -> Recognised:
    """The table's form.

    Raises:
        DataError: its first line has no columns or names one twice, or the file is not text that can be read.
        OptionError: --columns names a column that is not there.
    """
    found = text.decodable(found)
    parted = delimiter(found.head)
    if parted is None:
        raise DataError([f"{found.url}:1: is no table: its first line has no columns parted by , ; | or a tab"])
    names = _names(found, parted)
    for field, column in how.columns.items():
        if column not in names:
            raise OptionError(f"--columns {field}={column}: {found.url} has {', '.join(names)}")
    shown = sets.shown(dict.fromkeys(names, ""))
    if classes := _classes(found, parted, names):
        return _of_classes(found, parted, classes)
    what = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}[parted]
    return Recognised(
        form="csv",
        evidence=f"a table parted by {what}, with the columns {shown}",
        records=lambda: _records(found, parted),
        mended=found.mended,
    )


def _records(found: Text, parted: str) -> Iterator[Record]:
    """Each line's cells by their columns; empty ones are left out."""
    csv.field_size_limit(LONGEST)
    with found.opened() as file:
        if found.head.startswith("sep="):
            file.readline()
        reader = csv.reader(file, delimiter=parted, strict=True, skipinitialspace=True)
        try:
            names = [name.strip() for name in next(reader)]
            for number, cells in enumerate((row for row in reader if row), start=1):
                yield Record(number, str(reader.line_num), _cells(names, cells))
        except csv.Error as error:
            raise DataError([f"{found.url}:{reader.line_num}: not CSV: {error}{_advice(str(error))}"]) from error


def _classes(found: Text, parted: str, names: list[str]) -> tuple[str, ...]:
    """The columns of Roboflow's multi-label export: a file's name, and a 0 or 1 for each class."""
    if len(names) < 2 or fold(names[0]) != "filename":
        return ()
    rows = list(islice(csv.reader(found.head.splitlines()[1:], delimiter=parted, skipinitialspace=True), FIRST))
    marks = {cell.strip() for row in rows for cell in row[1:]}
    return tuple(names[1:]) if marks and marks <= {"0", "1"} else ()


def _of_classes(found: Text, parted: str, classes: tuple[str, ...]) -> Recognised:
    def records() -> Iterator[Record]:
        for record in _records(found, parted):
            cells = record.value
            if isinstance(cells, dict):
                shown = [name for name in classes if cells.get(name, "").strip() == "1"]
                cells = {"image": next(iter(cells.values())), "question": CLASSES, "answer": ", ".join(shown) or "none"}
            yield Record(record.number, record.where, cells)

    evidence = f"a file name and {len(classes)} classes of 0 or 1, asked {CLASSES!r}"
    return Recognised("roboflow", evidence, records, mended=found.mended)


def _cells(names: list[str], cells: list[str]) -> Any:
    if len(cells) > len(names):
        return f"{len(cells)} cells under {len(names)} columns: text with a comma needs quotes around it"
    return {name: cell for name, cell in zip(names, cells, strict=False) if cell}


def _advice(error: str) -> str:
    if "expected after" in error:
        return ": a quote within quotes is written twice"
    return ": a quote is opened and never closed" if "unexpected end" in error else ""


def _names(found: Text, parted: str) -> list[str]:
    names = [name.strip() for name in next(csv.reader([_header(found.head)], delimiter=parted, skipinitialspace=True))]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise DataError([f"{found.url}:1: the column {', '.join(twice)} is there twice: rename one"])
    return names


def _header(head: str) -> str:
    lines = [line for line in head.splitlines() if line.strip()]
    if lines and lines[0].startswith("sep="):
        lines = lines[1:]
    return lines[0] if lines else ""
