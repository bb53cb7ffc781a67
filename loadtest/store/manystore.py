"""Stores of thousands of adapters, made of one: the same tensors, each under a digest of its own."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from service.adapters.store import Store, digest
from service.types import Adapter


def versions_of(source: Adapter, count: int) -> Iterator[tuple[str, str, dict[str, bytes]]]:
    """(name, version, the one file that differs) of `count` adapters like `source` but for their README.md."""
    sums = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in source.path.iterdir()}
    for number in range(count):
        card = {"README.md": f"copy {number}\n".encode()}
        own = {name: hashlib.sha256(content).hexdigest() for name, content in card.items()}
        lines = "".join(f"{name} {each}\n" for name, each in sorted((sums | own).items()))
        yield f"a{number:05}", hashlib.sha256(lines.encode()).hexdigest(), card


def fill(root: Path, source: Adapter, count: int) -> None:
    """Make a store of `count` adapters below `root`, by hard links to the files of `source`.

    Raises:
        OSError: `root` and `source` are on different disks, for one.
    """
    for name, version, own in versions_of(source, count):
        folder = root / name / "versions" / version
        folder.mkdir(parents=True)
        for file in source.path.iterdir():
            if file.name not in own:
                os.link(file, folder / file.name)
        for file_name, content in own.items():
            (folder / file_name).write_bytes(content)
        (root / name / "aliases.json").write_text(json.dumps({"stable": version}))


def copy_here(store: Path, name: str, folder: Path) -> Adapter:
    """Copy an adapter's stable version to a directory in `folder`, so that hard links can be made to it there."""
    found = Store(store).stable(name)
    files = {file.name: file.read_bytes() for file in found.path.iterdir()}
    copy = folder / digest(files)
    copy.mkdir()
    for file_name, content in files.items():
        (copy / file_name).write_bytes(content)
    return Adapter(name, copy.name, copy)
