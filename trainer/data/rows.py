r"""A set of any form -> rows, one by one.

What this project writes itself is JSON lines of these forms:

    {"id"?, "image"?, "category"?, "answers"?, "question", "answer"}
    {"id"?, "image"?, "category"?, "answers"?, "conversations": [{"from": "human", "value": "…"}, {"from": "gpt", …}]}
    {"id"?, "image"?, "category"?, "question", "chosen", "rejected"}

A record is one row: a conversation of one question and answer, or of several, where each may rest on those before it.
`answers` are all right answers to the last question, where there are several; any form may have `counted_in`, a list.
Every fault of every record is found in one pass; pixels are not looked at (check.py does). Other forms are in forms/.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from trainer.config.data import RowsOptions
from trainer.data import files
from trainer.data.faults import Fault, Faults, Notes
from trainer.data.forms.names import Images
from trainer.data.forms.pictures import Pictures
from trainer.data.forms.reading import AUTO, Reading
from trainer.data.forms.recognise import recognise
from trainer.data.forms.recognised import Recognised, Record
from trainer.data.forms.record import Plain, plain
from trainer.data.forms.talk import GPT, HUMAN
from trainer.data.forms.text import LONGEST
from trainer.data.forms.values import Picture
from trainer.data.row import Row
from trainer.errors import DataError

SPEAKERS = (HUMAN, GPT)


@dataclass(frozen=True, slots=True)
class Line:
    """What one record holds: its row, or its faults, and the rules by which something of it was mended.

    `number` counts records, or lines where each is one; `where` says more where a line holds many. `id` is the one the
    record itself gives.
    """

    number: int
    where: str
    id: str | None
    rows: tuple[Row, ...]
    faults: tuple[Fault, ...]
    mended: tuple[str, ...] = ()


class Source:
    """A set of any form, read from its beginning each time it is asked for its lines.

    `mended` counts, by rule, what was understood in another way than it was written; `pictured` and `textual` are the
    rows with an image and without one, `paired` those that are pairs of answers. All are of what was read so far.
    """

    def __init__(self, file: str, images: str, how: Reading = AUTO, keeps: bool = False) -> None:
        """Recognise the file's form. `keeps`: pictures that lie in the set are written to the folder `images`.

        Raises:
            DataError: it cannot be read, is of no form that holds rows, or with --strict has to be read in another way
                than it is written.
        """
        self.file, self.how = file, how
        self.found: Recognised = recognise(file, images, how)
        self.images = images if self.found.folder is None else self.found.folder
        self.mended: Counter[str] = Counter(self.found.mended)
        self.pictured = self.textual = self.paired = 0
        self.parser = Parser(self.images, file, self.found, how, Pictures(images) if keeps and images else None)
        if how.strict and self.found.mended:
            raise DataError([f"{file}: {rule}: --strict refuses it" for rule in self.found.mended])

    def lines(self) -> Iterator[Line]:
        """What each record holds, good or not; blank lines are passed over.

        Raises:
            DataError: the file cannot be read, or breaks off.
        """
        if self.found.lines:
            for number, line in enumerate(files.lines(self.file), start=1):
                if line.strip():
                    yield self.counted(self.parser.line(number, line))
        else:
            for record in self.found.records():
                yield self.counted(self.parser.record(record))

    def rows(self) -> Iterator[Row]:
        """Every row; faults are raised behind the last.

        Raises:
            DataError: as `lines`, and faulty rows, all of them.
        """
        faults = Faults()
        for line in self.lines():
            for fault in line.faults:
                faults.add(f"{self.file}:{line.where}", fault)
            yield from line.rows
        if not faults and not self.pictured + self.textual:
            faults.add(self.file, Fault("holds no rows"))
        if not faults and (blind := self.blind()):
            faults.add(self.file, blind)
        if faults:
            raise faults.error()

    def counted(self, line: Line) -> Line:
        """The line unchanged, after it was added to the counts."""
        self.mended.update(line.mended)
        for row in line.rows:
            self.paired += row.rejected is not None
            if row.image is None:
                self.textual += 1
            else:
                self.pictured += 1
        return line

    def summary(self) -> str:
        """The form and its evidence, the rows without an image, and each mending with its count; a line each."""
        every = self.textual + self.pictured
        text = [f"{self.textual} of {every} rows have no image"] if self.textual else []
        text += [f"{self.paired} of {every} rows are pairs of answers"] if self.paired else []
        mended = [f"mended, {rule}: {count}" for rule, count in self.mended.most_common()]
        return "\n".join([str(self.found), *text, *mended])

    def blind(self) -> Fault | None:
        """A fault where a folder of images was given and no row has an image; else None."""
        if self.pictured or not self.textual or not self.images:
            return None
        return Fault(
            f"none of its {self.textual} rows has an image, though --images {self.images} is given: say --columns"
            " image=KEY if one is named under another key; for rows of text alone leave --images out"
        )


def read_rows(file: str | Path, images: str | Path, how: Reading = AUTO) -> list[Row]:
    """Every row of a set whose image names are relative to `images`.

    Raises:
        DataError: the file cannot be read, or rows are faulty; the message has a line for each, as file:line: fault.
    """
    return list(scan(file, images, how))


def scan(file: str | Path, images: str | Path, how: Reading = AUTO) -> Iterator[Row]:
    """`read_rows` one by one; faults are raised behind the last row.

    Raises:
        DataError: as `read_rows`.
    """
    yield from Source(str(file), str(images), how).rows()


def source_of(options: RowsOptions) -> Source:
    """The set that a command's options name, read as they say.

    Raises:
        DataError: the file cannot be read, is of no form that holds rows, or has its pictures elsewhere than --images.
    """
    source = Source(options.data, options.images, Reading.of(options))
    if source.images != options.images:
        raise DataError([f"{options.data}: its pictures lie in {source.images}: say --images {source.images}"])
    return source


def rows_of(options: RowsOptions) -> Iterator[Row]:
    """The rows of `source_of`; faults are raised behind the last.

    Raises:
        DataError: as `source_of`, and faulty rows.
    """
    return source_of(options).rows()


class Parser:
    """Judges one record after the other; remembers which images exist, so that each is looked up once."""

    def __init__(
        self, images: str, source: str, found: Recognised, how: Reading = AUTO, pictures: Pictures | None = None
    ) -> None:
        self._pictures = pictures
        self._names = Images(images)
        self._source = source
        self._found = found
        self._how = how

    def line(self, number: int, line: bytes) -> Line:
        """Parse the JSON text of one record."""
        if len(line) > LONGEST:
            return _faulty(number, f"a line of {len(line):,} bytes, over {LONGEST:,}")
        try:
            value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            return _faulty(number, f"not UTF-8 text at byte {error.start + 1}: save the file as UTF-8")
        except (ValueError, RecursionError) as error:
            return _faulty(number, "not JSON: {}", f"{error}{_advice(line)}")
        return self.record(Record(number, str(number), value))

    def record(self, record: Record) -> Line:
        """Turn one record into its rows, or name its fault."""
        if not isinstance(record.value, Mapping):
            said = record.value if self._found.form == "csv" else "not a JSON object"
            return _faulty(record.number, said, where=record.where)
        notes = Notes.none()
        try:
            value = self._found.convert(record.value) if self._found.convert else record.value
            read = plain(value, self._how, self._found.known, notes)
        except RecursionError:
            return _faulty(record.number, "nested too deep", where=record.where)
        image = self._image(read.pictures, notes)
        if self._how.strict:
            notes.faults += [Fault(f"{rule}: --strict refuses it") for rule in notes.mended]
        if notes.faults:
            return Line(record.number, record.where, read.id, (), tuple(notes.faults))
        row = self._row(read, image, record)
        return Line(record.number, record.where, read.id, (row,), (), tuple(notes.mended))

    def _row(self, read: Plain, image: str | None, record: Record) -> Row:
        *history, (question, answer) = read.exchanges
        return Row(
            id=read.id or f"{files.stem(self._source)}-{record.number}",
            image=image,
            question=question,
            answer=answer,
            category=read.category or self._found.category or "all",
            place=f"{self._source}:{record.where}",
            history=tuple(history),
            answers=read.answers,
            rejected=read.rejected,
            groups=read.groups,
        )

    def _image(self, pictures: tuple[Picture, ...], notes: Notes) -> str | None:
        if len(pictures) > 1:
            notes.fault(
                "has {} images, and a row is trained on with one: put them side by side in one picture, or drop it",
                str(len(pictures)),
            )
        if len(pictures) != 1:
            return None
        (picture,) = pictures
        if isinstance(picture, bytes):
            if self._pictures:
                return self._pictures.keep(picture)
            notes.fault(
                "its picture lies in the set itself: write it to a file first, by `python -m trainer data import"
                f" --source {self._source} --images FOLDER --output ROWS.jsonl`"
            )
            return None
        return self._names.find(picture, notes)


def _faulty(number: int, says: str, of: str = "", where: str = "") -> Line:
    return Line(number, where or str(number), None, (), (Fault(says, of),))


def _advice(line: bytes) -> str:
    """What a line that is not JSON seems to be, and what to do, where that can be seen; else an empty text."""
    start = line.strip()
    if start.startswith((b"#", b"//")):
        return ": a comment, which JSON lines do not have: delete it"
    if start.startswith((b"{'", b"{None", b"{True")):
        return ": Python's own form of an object: write it with json.dumps"
    if start.endswith(b"},"):
        return ": a comma behind the object: delete it"
    return ""
