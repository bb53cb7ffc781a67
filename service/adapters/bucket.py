"""A store's files at an fsspec URL: each version is copied to a directory of this process's before it is used.

`look` lists everything below the root once, which object stores answer in pages of a thousand keys.
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from service.adapters import directory
from service.adapters.directory import LAST, MARKS, VERSION, VERSIONS, Folder, counts
from service.adapters.own import Own
from service.errors import StoreUnavailable
from service.members import MEMBERS

# Names, by file system, of a file's fact that changes when the file does; the first that a file has is taken.
_STAMPS = ("ETag", "etag", "md5Hash", "generation", "blob_id", "content_settings", "mtime", "LastModified", "created")

# What each folder holds below the root: a path within it, and the stamp of the file there.
_Found = dict[str, dict[str, str]]


class Bucket:
    """The files below a URL. There are no locks: of two writers at once the last one wins.

    Methods that read or write the store raise StoreUnavailable where that fails.
    """

    def __init__(self, fs: Any, root: str, own: Own) -> None:
        self._fs, self._root, self._own = fs, root, own
        self._found: _Found = {}

    def look(self) -> dict[str, Folder]:
        """Every folder of the root by its name.

        Raises:
            StoreUnavailable: the root cannot be listed.
        """
        found: _Found = defaultdict(dict)
        for path, stamp in self._list(self._root).items():
            folder, _, inside = path.partition("/")
            if inside and counts(folder):
                found[folder][inside] = stamp
        self._found = dict(found)
        return {name: _folder(files) for name, files in self._found.items()}

    def read(self, paths: Sequence[str], most: int) -> dict[str, bytes | Exception]:
        """Files' contents by path, or the error why one cannot be read; one of over `most` bytes is a ValueError.

        All are requested at once, and most clouds' clients then read them at once.
        """
        with self._naming():
            found = self._fs.cat([f"{self._root}/{path}" for path in paths], on_error="return") if paths else {}
        return {path.removeprefix(f"{self._root}/"): _at_most(most, content) for path, content in found.items()}

    def locked(self, make: bool = False) -> AbstractContextManager[None]:  # noqa: ARG002 - as Directory has it
        """Lock nothing: object stores have no locks, so of two writers at once the last one wins."""
        return nullcontext()

    def put(self, path: str, content: bytes) -> None:
        """Make or replace a file; readers see the old content or the new."""
        with self._naming():
            self._fs.pipe_file(f"{self._root}/{path}", content)

    def add(self, folder: str, files: Mapping[str, bytes]) -> None:
        """Make a folder of files, one after the other in their order."""
        for name, content in files.items():
            self.put(f"{folder}/{name}", content)

    def stamp(self, folder: str) -> str:
        """A text that changes when a file of the folder does, as of the last look."""
        name, _, inside = folder.partition("/")
        return str(sorted(each for each in self._found.get(name, {}).items() if each[0].startswith(f"{inside}/")))

    def local_path(self, folder: str) -> Path:
        """The local directory where `fetch` leaves a folder's files."""
        return self._own.copies() / folder

    def fetch(self, folder: str) -> None:
        """Copy a folder's files to this machine, unless they were copied before; the folder may be empty."""
        target = self.local_path(folder)
        if target.is_dir():
            os.utime(target)  # `trim` removes copies by this time, oldest first
            return
        names = [name for name in self._list(f"{self._root}/{folder}") if _belongs(name)]
        with self._naming():
            if names:
                with directory.staged(target, self._own.path) as copy:
                    for name in names:
                        (copy / name).parent.mkdir(exist_ok=True)
                        self._fs.get_file(f"{self._root}/{folder}/{name}", str(copy / name))

    def release(self, folder: str) -> None:
        """Remove the local copy that `fetch` made, if there is one."""
        with self._naming():
            directory.remove(self.local_path(folder), self._own.path)

    def trim(self, keep: frozenset[str]) -> None:
        """Remove copies, those used longest ago first, until they are within the bound in bytes; none of `keep`."""
        with self._naming():
            self._own.trim(keep)

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all in it."""
        with self._naming():
            if self._fs.exists(f"{self._root}/{path}"):
                self._fs.rm(f"{self._root}/{path}", recursive=True)

    def _list(self, folder: str) -> dict[str, str]:
        """The stamps of the files below a folder, by their paths in it; empty keys that end in / mark folders."""
        with self._naming():
            self._fs.invalidate_cache()
            found = self._fs.find(folder, detail=True)
        inside = {path.removeprefix(f"{folder}/"): info for path, info in found.items() if info["type"] == "file"}
        return {path: _stamp(info) for path, info in inside.items() if path and not path.endswith("/")}

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Raise StoreUnavailable for whatever a cloud's client raises: those clients share no error class."""
        try:
            yield
        except Exception as error:
            raise StoreUnavailable(f"the adapter store {self._root} fails: {type(error).__name__}: {error}") from error


def _belongs(name: str) -> bool:
    """Whether a file below a version's folder is a part of it: one of its own, or of a mixture's members."""
    member, _, file = name.rpartition("/")
    return counts(file) and (not member or member in MEMBERS)


def _folder(files: Mapping[str, str]) -> Folder:
    marks = {mark: files[mark] for mark in MARKS if mark in files}
    parts = (path.split("/") for path in files if path.startswith(f"{VERSIONS}/") and path.endswith(f"/{LAST}"))
    return Folder(marks, frozenset(part[1] for part in parts if len(part) == 3 and VERSION.fullmatch(part[1])))


def _stamp(info: Mapping[str, Any]) -> str:
    fact = next((info[key] for key in _STAMPS if info.get(key) is not None), None)
    return f"{fact} {info.get('size')}"


def _at_most(most: int, content: bytes | Exception) -> bytes | Exception:
    """A file's content if it is at most `most` bytes, else a ValueError; an error comes back as it is."""
    small = isinstance(content, Exception) or len(content) <= most
    return content if small else ValueError(f"it has over {most} bytes")
