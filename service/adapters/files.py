"""Where a store's files lie: a local directory, used in place, or any fsspec URL, copied here version by version.

Knows paths and bytes, and nothing of what they mean. Everything here blocks.
"""

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Protocol

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from service.errors import StoreUnavailable

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class Files(Protocol):
    """A tree of files; paths are relative to its root, with slashes.

    Raises:
        StoreUnavailable: a URL's file system cannot be asked; a local one raises OSError.
    """

    def paths(self) -> list[str]:
        """Every JSON file."""

    def read(self, paths: Sequence[str]) -> dict[str, bytes]:
        """Files' contents; one that is not there is left out."""

    def locked(self) -> AbstractContextManager[None]:
        """Keep other writers out, as far as the place can."""

    def put(self, path: str, content: bytes) -> None:
        """Make or replace a file; readers see the old or the new."""

    def add(self, folder: str, files: Mapping[str, bytes], last: str) -> None:
        """Make a folder of files, `last` after the others; a folder that is there already is left alone."""

    def stamp(self, folder: str) -> str:
        """A text that changes when a file of the folder does."""

    def fetch(self, folder: str) -> Path:
        """A local directory with the folder's files; it may not exist."""

    def release(self, folder: str) -> None:
        """Free what `fetch` copied, if it did."""

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all in it; the first thing to go is its name."""


def files_at(where: str | Path, cache: Path | None) -> Files:
    """The files at a local path or an fsspec URL; `cache` is where a URL's are copied to.

    Raises:
        ValueError, ImportError: no file system goes by the URL's protocol, or its package is missing.
    """
    if not _URL.match(str(where)):
        return Directory(Path(where))
    fs, root = url_to_fs(str(where))
    if isinstance(fs, LocalFileSystem):
        return Directory(Path(root))
    return Bucket(fs, root.rstrip("/"), cache or Path(tempfile.gettempdir()) / "manylens-adapters")


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

    def add(self, folder: str, files: Mapping[str, bytes], last: str) -> None:
        """See Files: all or nothing, so the order is of no matter."""
        target = self._root / folder
        if not target.is_dir():
            _rename_whole(files, target, self._root)

    def stamp(self, folder: str) -> str:
        """See Files."""
        facts: list[object] = []
        with suppress(FileNotFoundError):
            for file in sorted((self._root / folder).iterdir()):
                fact = file.stat()
                facts.append((file.name, fact.st_size, fact.st_mtime_ns, fact.st_ino))
        return str(facts)

    def fetch(self, folder: str) -> Path:
        """See Files."""
        return self._root / folder

    def release(self, folder: str) -> None:
        """See Files: nothing was copied."""

    def remove(self, path: str) -> None:
        """See Files."""
        _remove(self._root / path, self._root)


class Bucket:
    """Files of an fsspec file system. Writers do not keep one another out: of two at once the last one wins."""

    def __init__(self, fs: Any, root: str, cache: Path) -> None:
        self._fs, self._root, self._cache = fs, root, cache

    def paths(self) -> list[str]:
        """See Files."""
        with self._naming():
            return [path.removeprefix(f"{self._root}/") for path in self._find(self._root) if path.endswith(".json")]

    def read(self, paths: Sequence[str]) -> dict[str, bytes]:
        """See Files; asked for all at once, which most clouds answer at once."""
        with self._naming():
            found = self._fs.cat([f"{self._root}/{path}" for path in paths], on_error="return") if paths else {}
            for content in found.values():
                if isinstance(content, Exception) and not isinstance(content, FileNotFoundError):
                    raise content
        texts = {path.removeprefix(f"{self._root}/"): content for path, content in found.items()}
        return {path: content for path, content in texts.items() if isinstance(content, bytes)}

    def locked(self) -> AbstractContextManager[None]:
        """See Files."""
        return nullcontext()

    def put(self, path: str, content: bytes) -> None:
        """See Files."""
        with self._naming():
            self._fs.pipe_file(f"{self._root}/{path}", content)

    def add(self, folder: str, files: Mapping[str, bytes], last: str) -> None:
        """See Files."""
        for name in sorted(files, key=lambda name: name == last):
            self.put(f"{folder}/{name}", files[name])

    def stamp(self, folder: str) -> str:
        """See Files."""
        with self._naming():
            return str([(path, self._fs.ukey(path)) for path in sorted(self._find(f"{self._root}/{folder}"))])

    def fetch(self, folder: str) -> Path:
        """See Files."""
        target = self._cache / folder
        if not target.is_dir():
            with self._naming():
                paths = self._find(f"{self._root}/{folder}")
                found = self._fs.cat(paths) if paths else {}
            if found:
                files = {path.rpartition("/")[2]: content for path, content in found.items()}
                _rename_whole(files, target, self._cache)
        return target

    def release(self, folder: str) -> None:
        """See Files."""
        _remove(self._cache / folder, self._cache)

    def remove(self, path: str) -> None:
        """See Files."""
        with self._naming():
            if self._fs.exists(f"{self._root}/{path}"):
                self._fs.rm(f"{self._root}/{path}", recursive=True)

    def _find(self, folder: str) -> list[str]:
        self._fs.invalidate_cache()
        try:
            return list(self._fs.find(folder))
        except FileNotFoundError:
            return []

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Clouds' clients share no error class."""
        try:
            yield
        except Exception as error:
            raise StoreUnavailable(f"the adapter store {self._root} fails: {type(error).__name__}: {error}") from error


def _rename_whole(files: Mapping[str, bytes], target: Path, root: Path) -> None:
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


def _remove(path: Path, root: Path) -> None:
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
