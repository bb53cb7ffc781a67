"""WebDataset's tar shards: files of one name and several endings are a sample, pictures and text side by side."""

import json
import tarfile
from collections.abc import Iterator
from typing import Any

from trainer.data import files
from trainer.data.forms.recognised import Recognised, Record
from trainer.data.forms.text import LONGEST
from trainer.errors import DataError

_PICTURES = ("png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff")
# Endings of files that hold one field as text.
_TEXTS = {"txt": "caption", "question": "question", "answer": "answer", "cls": "label"}
# The most bytes of one file in a shard.
_LARGEST = 64 << 20
_MAGIC = 257, b"ustar"


def is_shard(source: str) -> bool:
    """Whether a file is a tar archive: by its ending, and if it is not packed by its first bytes.

    Raises:
        DataError: it cannot be read.
    """
    if not source.endswith((".tar", ".tar.gz", ".tgz")):
        return False
    with files.reading(source) as file:
        head = file.read(512)
    return head[_MAGIC[0] :].startswith(_MAGIC[1]) or source.endswith(("gz",))


def recognise(shards: list[str]) -> Recognised:
    """The form of tar shards, read one behind the other.

    Raises:
        DataError: the first shard cannot be read, is no tar file, or has a file that is too large or not JSON as it
        says.
    """
    first = next(_records(shards[:1]), None)
    held = ", ".join(first.value) if first and isinstance(first.value, dict) else "nothing"
    return Recognised("webdataset", f"{len(shards)} tar files, the first sample holds {held}", lambda: _records(shards))


def _records(shards: list[str]) -> Iterator[Record]:
    number = 0
    for shard in shards:
        for key, sample in _samples(shard):
            number += 1
            where = f"{key} of {files.stem(shard)}.tar" if len(shards) > 1 else key
            yield Record(number, where, sample)


def _samples(shard: str) -> Iterator[tuple[str, Any]]:
    """Members that share a name up to its first dot, as WebDataset groups them: they lie side by side."""
    try:
        with files.reading(shard) as file, tarfile.open(fileobj=file, mode="r|*") as tar:
            key, sample = "", dict[str, Any]()
            for member in tar:
                if not member.isfile():
                    continue
                folder, _, base = member.name.rpartition("/")
                name, _, ending = base.partition(".")
                name = f"{folder}/{name}" if folder else name
                if name != key and sample:
                    yield key, sample
                    sample = {}
                key = name
                if member.size > _LARGEST:
                    raise DataError([f"{shard}: {member.name} has {member.size:,} bytes, over {_LARGEST:,}"])
                opened = tar.extractfile(member)
                sample |= _fields(ending.lower(), opened.read() if opened else b"", f"{shard}: {member.name}")
            if sample:
                yield key, sample
    except tarfile.TarError as error:
        raise DataError([f"{shard}: is no whole tar file: {error}"]) from error


def _fields(ending: str, data: bytes, name: str) -> dict[str, Any]:
    if ending in _PICTURES:
        return {"image": data}
    if ending == "json" and len(data) <= LONGEST:
        try:
            found = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise DataError([f"{name}: not JSON: {error}"]) from error
        return found if isinstance(found, dict) else {"json": found}
    if ending in _TEXTS:
        return {_TEXTS[ending]: data.decode("utf-8", "replace")}
    return {ending: f"{len(data)} bytes"}
