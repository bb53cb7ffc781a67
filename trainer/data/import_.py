"""`data import`: a set of any form -> JSON lines that `data check` accepts; what makes no row is dropped and named."""

from collections.abc import Mapping

from trainer.config.data import ImportOptions
from trainer.data.check import images_of
from trainer.data.faults import Fault
from trainer.data.forms.reading import Reading
from trainer.data.image_facts import with_faults
from trainer.data.progress import with_progress
from trainer.data.rows import Line, Source
from trainer.data.write import Report, writing
from trainer.errors import DataError


def import_rows(options: ImportOptions) -> str:
    """Write every record that makes a row, and say what was found and what came of it.

    Raises:
        DataError: the source cannot be read, is of no form that holds rows, or gives no row at all.
        OptionError: a package that is missing.
    """
    report = Report()
    source = Source(options.source.rstrip("/"), options.images, Reading.of(options), keeps=True)
    images: dict[str, str | None] = {}
    with writing(options.output, source.images, report) as writer:
        lines = with_progress(source.lines(), f"import {source.found.form}", "record")
        for line in with_faults(lines, images_of, images, options.index):
            faults = line.faults or _image_faults(line, images)
            for fault in faults:
                report.note(f"dropped, {fault.kind}", _where(line, fault))
            for row in () if faults else line.rows:
                writer.write(row)
        if not report.kept:
            raise DataError([f"{options.source}: no record made a row", str(source.found), str(report)])
        if blind := source.blind():
            raise DataError([f"{options.source}: {blind}"])
    return f"{source.summary()}\n{report}\n--data {options.output} --images {source.images or '(none)'}"


def _where(line: Line, fault: Fault) -> str:
    return f"{line.where}: {fault.of}" if fault.of else line.where


def _image_faults(line: Line, images: Mapping[str, str | None]) -> tuple[Fault, ...]:
    """A record has one image at most."""
    image = line.rows[0].image if line.rows else None
    why = images[image] if image else None
    return (Fault(f"image {{}}: {why}", image or ""),) if why else ()
