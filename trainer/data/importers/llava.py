"""LLaVA's instruction files: one JSON list of records that JSON lines would hold one by one."""

from collections.abc import Iterator
from typing import Any

from trainer.data.config import ImportOptions
from trainer.data.importers.source import read_json


def records(options: ImportOptions) -> Iterator[tuple[str, Any]]:
    """Each record as it is."""
    for number, record in enumerate(read_json(options.source, list, "a JSON list of records"), start=1):
        yield f"record {number}", record
