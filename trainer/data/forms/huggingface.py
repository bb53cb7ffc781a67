"""Hugging Face's own files: what save_to_disk wrote, and Parquet; read batch by batch, pictures as the bytes they are.

The class names of a ClassLabel's column, which holds numbers, stand in the schema's metadata.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.data import files
from trainer.data.forms import sets
from trainer.data.forms.reading import Reading
from trainer.data.forms.recognised import Recognised, Record
from trainer.errors import DataError, OptionError

STATE = "state.json"
SPLITS = "dataset_dict.json"
# Rows that are in memory at once; with pictures of a megabyte each this is 64 MB.
_BATCH = 64


def is_saved(folder: Path) -> bool:
    """Whether save_to_disk wrote a folder, of one split or of several."""
    return (folder / STATE).is_file() or (folder / SPLITS).is_file()


def parquets(path: Path) -> list[Path]:
    """The Parquet files of a folder, or the file itself."""
    if path.is_file():
        return [path]
    return sorted(each for each in path.rglob("*.parquet") if not any(part.startswith(".") for part in each.parts))


def recognise(source: str, how: Reading) -> Recognised:
    """The form of a save_to_disk folder, a Parquet file, or a folder of them.

    Raises:
        DataError: it is none of these, or cannot be read.
        OptionError: pyarrow is not installed, or --split names a split that is not there.
    """
    path = files.local(source)
    if path is None:
        raise DataError([f"{source}: Hugging Face's files are read from this machine's disks: copy them here"])
    parts = _saved(path) if is_saved(path) else _by_split(parquets(path))
    if not parts:
        raise DataError([f"{source}: holds no Arrow or Parquet file"])
    if how.split is not None:
        parts = _of_split(source, parts, how.split)
    kind = "save_to_disk" if is_saved(path) else "Parquet"
    schema = _schema(parts[0][1])
    first = dict.fromkeys(schema.names, "")
    chosen = sets.chosen(source, [first], how)
    return Recognised(
        form="huggingface",
        evidence=f"{kind}, {len(parts)} files, with the columns {sets.shown(first)}",
        records=lambda: _records(parts),
        known=chosen.known,
        convert=chosen.convert,
    )


def _saved(folder: Path) -> list[tuple[str, Path]]:
    """Every Arrow file that the folder's state names, with its split."""
    if (folder / SPLITS).is_file():
        splits = _json(folder / SPLITS).get("splits", [])
        return [(split, file) for split in splits for _, file in _saved(folder / split)]
    named = [each["filename"] for each in _json(folder / STATE).get("_data_files", [])]
    missing = [name for name in named if not (folder / name).is_file()]
    if missing:
        raise DataError([f"{folder}: {missing[0]} is missing, which its {STATE} names: copy the whole folder"])
    return [("", folder / name) for name in named]


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError([f"{file}: cannot be read: {error}"]) from error
    if not isinstance(found, dict):
        raise DataError([f"{file}: is not what save_to_disk writes"])
    return found


def _split_of(file: Path) -> str:
    """The split that a Parquet file's name begins with, as on the Hub: train-00000-of-00001.parquet."""
    name = file.name.partition("-")[0]
    return name if name in ("train", "validation", "test", "val", "dev") else ""


def _of_split(source: str, parts: list[tuple[str, Path]], split: str) -> list[tuple[str, Path]]:
    """The files of one split."""
    chosen = [("", file) for name, file in parts if name == split]
    if not chosen:
        have = ", ".join(sorted({name for name, _ in parts if name})) or "no splits"
        raise OptionError(f"--split {split}: {source} has {have}")
    return chosen


def _by_split(found: list[Path]) -> list[tuple[str, Path]]:
    """Each file with its split, where there are several."""
    parts = [(_split_of(file), file) for file in found]
    return parts if len({split for split, _ in parts}) > 1 else [("", file) for file in found]


def _records(parts: list[tuple[str, Path]]) -> Iterator[Record]:
    number = 0
    for split, file in parts:
        labels = _labels(_schema(file))
        at = 0
        for batch in _batches(file):
            for values in batch:
                number += 1
                record = {name: _named(value, labels.get(name)) for name, value in values.items()}
                if split and not record.get("category"):
                    record["category"] = split
                yield Record(number, f"{split or file.name} row {at}", record)
                at += 1


def _named(value: Any, names: list[str] | None) -> Any:
    """A ClassLabel's number becomes the class's name."""
    if names is not None and isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    return value


def _batches(file: Path) -> Iterator[list[dict[str, Any]]]:
    pyarrow = _pyarrow()
    try:
        if file.suffix == ".parquet":
            from pyarrow import parquet

            with parquet.ParquetFile(file) as opened:
                for batch in opened.iter_batches(_BATCH):
                    yield batch.to_pylist()
            return
        with pyarrow.memory_map(str(file)) as mapped, pyarrow.ipc.open_stream(mapped) as reader:
            for batch in reader:
                for start in range(0, batch.num_rows, _BATCH):
                    yield batch.slice(start, _BATCH).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError([f"{file}: cannot be read: {str(error).splitlines()[0]:.200}"]) from error


def _schema(file: Path) -> Any:
    pyarrow = _pyarrow()
    try:
        if file.suffix == ".parquet":
            from pyarrow import parquet

            return parquet.read_schema(file)
        with pyarrow.memory_map(str(file)) as mapped, pyarrow.ipc.open_stream(mapped) as reader:
            return reader.schema
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError([f"{file}: cannot be read: {str(error).splitlines()[0]:.200}"]) from error


def _labels(schema: Any) -> dict[str, list[str]]:
    """The class names of each column that is a ClassLabel."""
    written = (schema.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(written)["info"]["features"] if written else {}
        return {
            name: [str(each) for each in feature["names"]]
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError as error:
        raise OptionError("Hugging Face's files need a package that is not installed: pip install pyarrow") from error
    return pyarrow
