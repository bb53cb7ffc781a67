"""`python -m loadtest.gpu.parts`: cuts a folder of wheels into parts of a given size, and puts them together again.

For machines without a network, to which only small files can be copied. Needs nothing but Python's own library.

    python -m loadtest.gpu.parts pack WHEELS PARTS [MEGABYTES]      PARTS/part-000 …, sums.txt
    python -m loadtest.gpu.parts unpack PARTS WHEELS                parts may have come in any number of goes
"""

import hashlib
import io
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

MEGABYTE = 1_000_000
SUMS = "sums.txt"


def pack(source: Path, target: Path, megabytes: int = 50) -> int:
    """Write every file in `source` into parts of at most so many megabytes; returns how many there are."""
    target.mkdir(parents=True, exist_ok=True)
    writer = _Writer(target, megabytes * MEGABYTE)
    with tarfile.open(fileobj=cast(IO[bytes], writer), mode="w|") as archive:
        for file in sorted(source.iterdir()):
            archive.add(file, file.name)
    writer.finish()
    return len(writer.sums)


def unpack(source: Path, target: Path) -> int:
    """Write the files in the parts in `source` to `target`; returns how many files `target` has.

    Raises:
        FileNotFoundError: parts are missing; the message names all of them.
        ValueError: a part's SHA-256 is not that of what was packed.
    """
    sums = dict(line.split() for line in (source / SUMS).read_text().splitlines())
    if missing := [name for name in sums if not (source / name).is_file()]:
        raise FileNotFoundError(f"{source} lacks {', '.join(missing)}: bring them and unpack again")
    for name, wanted in sums.items():
        if hashlib.sha256((source / name).read_bytes()).hexdigest() != wanted:
            raise ValueError(f"{source / name} is not what was packed: bring it again")
    target.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=cast(IO[bytes], _Reader(source / name for name in sums)), mode="r|") as archive:
        archive.extractall(target, filter="data")
    return len(list(target.iterdir()))


class _Writer:
    """A file that is cut into parts as it is written."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder, self._size, self._held = folder, size, io.BytesIO()
        self.sums: dict[str, str] = {}

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        while view:
            taken = view[: self._size - self._held.tell()]
            self._held.write(taken)
            view = view[len(taken) :]
            if self._held.tell() == self._size:
                self._cut()
        return len(data)

    def finish(self) -> None:
        if self._held.tell():
            self._cut()
        (self._folder / SUMS).write_text("".join(f"{name} {digest}\n" for name, digest in self.sums.items()))

    def _cut(self) -> None:
        name, content = f"part-{len(self.sums):03d}", self._held.getvalue()
        (self._folder / name).write_bytes(content)
        self.sums[name] = hashlib.sha256(content).hexdigest()
        self._held = io.BytesIO()


class _Reader:
    """The parts as one file."""

    def __init__(self, files: Iterator[Path]) -> None:
        self._files, self._open = files, io.BytesIO()

    def read(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            if piece := self._open.read(size - len(found)):
                found += piece
                continue
            file = next(self._files, None)
            if file is None:
                break
            self._open = io.BytesIO(file.read_bytes())
        return found


def main(arguments: list[str]) -> int:
    """Pack or unpack; returns the exit status."""
    match arguments:
        case ["pack", source, target, *rest]:
            print(f"{pack(Path(source), Path(target), *map(int, rest))} parts in {target}")
        case ["unpack", source, target]:
            print(f"{unpack(Path(source), Path(target))} files in {target}")
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
