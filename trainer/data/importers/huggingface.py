"""A Hugging Face dataset directory (save_to_disk): its images are written out as files."""

import io
from collections.abc import Iterator
from typing import Any

from trainer.data import files
from trainer.data.config import ImportOptions
from trainer.data.importers.columns import named
from trainer.errors import DataError, OptionError


def records(options: ImportOptions) -> Iterator[tuple[str, Any]]:
    """Each example, of all splits; a list of answers gives its first."""
    for name, split in _splits(options.source):
        columns = named(options, split.column_names)
        for number, example in enumerate(split):
            where = f"{name} {number}" if name else f"example {number}"
            record = {field: example[column] for field, column in columns.items() if example[column] is not None}
            if isinstance(record.get("answer"), list):
                record["answer"] = str(record["answer"][0]) if record["answer"] else None
            if "image" in record:
                record["image"] = _written(record["image"], f"{name or 'image'}-{number:06}.png", options.images)
            if name and "category" not in record:
                record["category"] = name
            yield where, record


def _splits(source: str) -> list[tuple[str, Any]]:
    try:
        import datasets
    except ImportError as error:
        raise OptionError("--form huggingface needs a package: pip install datasets") from error
    try:
        found = datasets.load_from_disk(source)
    except (OSError, ValueError, KeyError) as error:
        raise DataError([f"{source}: not a directory that save_to_disk wrote: {error}"]) from error
    return list(found.items()) if isinstance(found, dict) else [("", found)]


def _written(image: Any, name: str, folder: str) -> Any:
    """The name of an image file; a picture in the data set is written first."""
    if not hasattr(image, "save"):
        return image
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    files.write(files.join(folder, name), buffer.getvalue())
    return name
