"""Where a store's files lie: a local directory, used in place, or any fsspec URL, copied here version by version.

Knows paths and bytes, and nothing of what they mean. Everything here blocks.
"""

import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from service.adapters.bucket import Bucket
from service.adapters.directory import Directory

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

    def add(self, folder: str, files: Mapping[str, bytes]) -> None:
        """Make a folder of files, at once or in their order; one that is there whole is left alone."""

    def stamp(self, folder: str) -> str:
        """A text that changes when a file of the folder does."""

    def here(self, folder: str) -> Path:
        """The local directory where `fetch` leaves a folder's files."""

    def fetch(self, folder: str) -> None:
        """Copy a folder's files here, if they lie elsewhere and were not copied yet; there may be none."""

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
