"""CSV with a header; columns are called image, question, answer, category and id, or as --columns says."""

import csv
from collections.abc import Iterator
from typing import Any

from trainer.data import files
from trainer.data.config import ImportOptions
from trainer.data.importers.columns import named
from trainer.errors import DataError


def records(options: ImportOptions) -> Iterator[tuple[str, Any]]:
    """Each line's fields; empty ones are left out."""
    reader = csv.DictReader(_text(options.source), strict=True)
    try:
        columns = named(options, list(reader.fieldnames or []))
        for values in reader:
            yield f"line {reader.line_num}", {field: values[name] for field, name in columns.items() if values[name]}
    except csv.Error as error:
        raise DataError([f"{options.source}:{reader.line_num}: not CSV: {error}"]) from error


def _text(url: str) -> Iterator[str]:
    for number, line in enumerate(files.lines(url), start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8") + "\n"
        except UnicodeDecodeError as error:
            raise DataError([f"{url}:{number}: not UTF-8 text at byte {error.start + 1}: save it as UTF-8"]) from error
