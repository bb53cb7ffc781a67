"""A store's files at an fsspec URL: each version is copied to a local directory before it is used."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from service.adapters import directory
from service.errors import StoreUnavailable


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

    def add(self, folder: str, files: Mapping[str, bytes]) -> None:
        """See Files."""
        for name, content in files.items():
            self.put(f"{folder}/{name}", content)

    def stamp(self, folder: str) -> str:
        """See Files."""
        with self._naming():
            return str([(path, self._fs.ukey(path)) for path in sorted(self._find(f"{self._root}/{folder}"))])

    def here(self, folder: str) -> Path:
        """See Files."""
        return self._cache / folder

    def fetch(self, folder: str) -> None:
        """See Files."""
        if self.here(folder).is_dir():
            return
        with self._naming():
            paths = self._find(f"{self._root}/{folder}")
            found = self._fs.cat(paths) if paths else {}
        if found:
            files = {path.rpartition("/")[2]: content for path, content in found.items()}
            directory.make(files, self.here(folder), self._cache)

    def release(self, folder: str) -> None:
        """See Files."""
        directory.remove(self.here(folder), self._cache)

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
