"""ChartQA: a JSON list of {"imgname", "query", "label"}; the images lie in png/."""

from collections.abc import Iterator
from typing import Any

from trainer.data import files
from trainer.data.config import ImportOptions
from trainer.data.importers.source import read_json


def records(options: ImportOptions) -> Iterator[tuple[str, Any]]:
    """Queries become questions; the file's name, test_human say, becomes the category."""
    found = read_json(options.source, list, "a JSON list of {imgname, query, label}")
    for number, record in enumerate(found, start=1):
        where = f"record {number}"
        if not isinstance(record, dict):
            yield where, record
            continue
        label = record.get("label")
        yield (
            where,
            {
                "image": record.get("imgname", ""),
                "category": files.stem(options.source),
                "question": record.get("query"),
                "answer": ", ".join(map(str, label)) if isinstance(label, list) else label,
            },
        )
