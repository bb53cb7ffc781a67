"""Stores of thousands of adapters, made of one: the same tensors, each under a digest of its own."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from service.adapters.store import Store, digest
from service.types import Adapter


def versions_of(source: Adapter, count: int) -> Iterator[tuple[str, str, dict[str, bytes]]]:
    """(name, version, the one file that is its own) of adapters that differ from `source` by their card."""
    sums = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in source.path.iterdir()}
    for number in range(count):
        card = {"README.md": f"copy {number}\n".encode()}
        own = {name: hashlib.sha256(content).hexdigest() for name, content in card.items()}
        lines = "".join(f"{name} {each}\n" for name, each in sorted((sums | own).items()))
        yield f"a{number:05}", hashlib.sha256(lines.encode()).hexdigest(), card


def fill(root: Path, source: Adapter, count: int) -> None:
    """Make a store of `count` adapters by hard links."""
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
    """A version of a store on the disk of `folder`, so that it can be linked to."""
    found = Store(store).stable(name)
    files = {file.name: file.read_bytes() for file in found.path.iterdir()}
    copy = folder / digest(files)
    copy.mkdir()
    for file_name, content in files.items():
        (copy / file_name).write_bytes(content)
    return Adapter(name, copy.name, copy)
