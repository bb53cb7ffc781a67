"""A CSV table with a row for each picture: a column names its file, the others hold its properties."""

import csv
from collections.abc import Iterator, Sequence

from trainer.config.data import AnnotationOptions
from trainer.data import files
from trainer.data.annotations.scene import Scene
from trainer.data.write import Report
from trainer.errors import DataError

_IMAGE = ("image", "image_path", "file_name", "filename", "file", "img", "path", "picture")
# The most characters of a cell that is asked about: longer ones are texts, not properties.
_LONGEST = 60


class Table:
    """One table with a header."""

    names: Sequence[str] = ()

    def __init__(self, options: AnnotationOptions, report: Report) -> None:
        """Read the header.

        Raises:
            DataError: it cannot be read, no column or more than one could name the picture, or --columns names one that
                is not there.
        """
        self._file, self._report = options.source, report
        header = next(iter(csv.reader(self._text())), [])
        named = [column for column in header if column.strip().lower().replace(" ", "_") in _IMAGE]
        if len(named) != 1:
            asked = "several columns" if named else "no column"
            raise DataError([f"{self._file}: {asked} of {', '.join(header)} could name the picture: call one `image`"])
        self._image = named[0]
        if options.columns and (unknown := set(options.columns) - set(header)):
            raise DataError([f"--columns {', '.join(sorted(unknown))}: not in {self._file}, which has {header}"])
        self._columns = options.columns or [
            column for column in header if column != self._image and column.strip().lower() != "id"
        ]

    @property
    def scenes(self) -> Iterator[Scene]:
        """The pictures in the table's order, each with its cells that are not empty.

        Raises:
            DataError: a line is not CSV or not UTF-8.
        """
        reader = csv.DictReader(self._text())
        try:
            for row in reader:
                where = f"line {reader.line_num}"
                if None in row or None in row.values() or not row[self._image].strip():
                    self._report.note(
                        "rows left out, they have more or fewer cells than the header, or no picture", where
                    )
                    continue
                cells = [(column, row[column].strip()) for column in self._columns]
                if any(len(value) > _LONGEST for _, value in cells):
                    self._report.note(f"cells left out, they have over {_LONGEST} characters", where)
                facts = tuple((column, value) for column, value in cells if 0 < len(value) <= _LONGEST)
                yield Scene(row[self._image].strip(), facts=facts)
        except csv.Error as error:
            raise DataError([f"{self._file}:{reader.line_num}: not CSV: {error}"]) from error

    def _text(self) -> Iterator[str]:
        for number, line in enumerate(files.lines(self._file), start=1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8") + "\n"
            except UnicodeDecodeError as error:
                raise DataError([f"{self._file}:{number}: not UTF-8 text: save the file as UTF-8"]) from error
