"""`data import`: other forms of data sets -> JSON lines that `data check` accepts.

An importer yields (where, record) with the record in a form that rows.py reads; what makes no row is dropped by name.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from tqdm import tqdm

from trainer.data.check import image_fault
from trainer.data.config import Form, ImportOptions
from trainer.data.importers import chartqa, csv_file, huggingface, llava, scienceqa
from trainer.data.rows import Line, Parser
from trainer.data.write import Report, writing
from trainer.errors import DataError

Importer = Callable[[ImportOptions], Iterator[tuple[str, Any]]]

IMPORTERS: dict[Form, Importer] = {
    "llava": llava.records,
    "chartqa": chartqa.records,
    "scienceqa": scienceqa.records,
    "csv": csv_file.records,
    "huggingface": huggingface.records,
}


def import_rows(options: ImportOptions) -> Report:
    """Write every record that makes rows.

    Raises:
        DataError: the source cannot be read, has another form, or gives no row at all.
        OptionError: a column that is not there, or a package that is missing.
    """
    report = Report()
    parser = Parser(options.images, options.source.rstrip("/"))
    look = cache(image_fault)  # each image is decoded once
    with writing(options.output, options.images, report) as writer:
        records = IMPORTERS[options.form](options)
        for number, (where, record) in enumerate(tqdm(records, desc=f"import {options.form}", unit="record"), start=1):
            line = parser.record(number, record)
            faults = line.faults or _image_faults(line, look)
            for fault in faults:
                report.note(f"dropped, {fault}", where)
            for row in () if faults else line.rows:
                writer.write(row)
        if not report.kept:
            raise DataError([f"{options.source}: no record made a row of form {options.form}", str(report)])
    return report


def _image_faults(line: Line, look: Callable[[str], str | None]) -> tuple[str, ...]:
    """A record has one image at most."""
    image = line.rows[0].image if line.rows else None
    fault = look(image) if image else None
    return (fault,) if fault else ()
