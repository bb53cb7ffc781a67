"""A store's files on this machine, or on a disk it shares: used in place, written all at once or not at all."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path


class Directory:
    """Files on this machine, or on a disk it shares: never copied. See Files."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def paths(self) -> list[str]:
        """See Files."""
        found: list[str] = []
        for folder, folders, files in os.walk(self._root):  # which passes over what vanishes while it looks
            folders[:] = [name for name in folders if not name.startswith(".")]
            inside = Path(folder).relative_to(self._root)
            found += [(inside / name).as_posix() for name in files if name.endswith(".json")]
        return found

    def read(self, paths: Sequence[str]) -> dict[str, bytes]:
        """See Files."""
        found: dict[str, bytes] = {}
        for path in paths:
            with suppress(FileNotFoundError):
                found[path] = (self._root / path).read_bytes()
        return found

    @contextmanager
    def locked(self) -> Iterator[None]:
        """See Files: a lock on the root itself, so that no file is left lying."""
        self._root.mkdir(parents=True, exist_ok=True)
        root = os.open(self._root, os.O_RDONLY)
        try:
            fcntl.flock(root, fcntl.LOCK_EX)
            yield
        finally:
            os.close(root)

    def put(self, path: str, content: bytes) -> None:
        """See Files."""
        file = self._root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        staged = file.with_suffix(".staged")
        _write(staged, content)
        staged.replace(file)

    def add(self, folder: str, files: Mapping[str, bytes]) -> None:
        """See Files: all or nothing, so the order is of no matter."""
        target = self._root / folder
        if not target.is_dir():
            make(files, target, self._root)

    def stamp(self, folder: str) -> str:
        """See Files."""
        facts: list[object] = []
        with suppress(FileNotFoundError):
            for file in sorted((self._root / folder).iterdir()):
                fact = file.stat()
                facts.append((file.name, fact.st_size, fact.st_mtime_ns, fact.st_ino))
        return str(facts)

    def here(self, folder: str) -> Path:
        """See Files."""
        return self._root / folder

    def fetch(self, folder: str) -> None:
        """See Files: they are used in place."""

    def release(self, folder: str) -> None:
        """See Files: nothing was copied."""

    def remove(self, path: str) -> None:
        """See Files."""
        remove(self._root / path, self._root)


def make(files: Mapping[str, bytes], target: Path, root: Path) -> None:
    """Make a directory that appears complete or not at all; `root` is on its disk."""
    root.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=".staged-", dir=root))
    try:
        for name, content in files.items():
            _write(staged / name, content)
        staged.chmod(0o755)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            staged.rename(target)
        except OSError:
            if not target.is_dir():  # another process was first: by its name, with the same content
                raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def remove(path: Path, root: Path) -> None:
    """Remove a file, or a directory that is gone at once; `root` is on its disk."""
    if path.is_dir():
        gone = Path(tempfile.mkdtemp(prefix=".gone-", dir=root))
        path.rename(gone / "x")
        shutil.rmtree(gone, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
