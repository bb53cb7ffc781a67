"""A store's files on a disk of this machine, or on one it shares: used in place, written all at once or not at all.

Links are followed. `look` at a store that did not change costs some three `stat` calls for each adapter.
"""

import fcntl
import itertools
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from service.errors import StoreUnavailable
from service.members import members

# The layout, as far as a look at the files needs it. A version is there once its PEFT configuration is, which is
# written last where a folder cannot appear at once.
VERSIONS, LAST = "versions", "adapter_config.json"
MARKS = ("aliases.json", "router.json", "deleted.json", "collected.json", LAST)
VERSION = re.compile(r"[0-9a-f]{64}")
# Names of files and folders that operating systems make by themselves: no part of a version, and no adapter.
_FOREIGN = frozenset({"Thumbs.db", "ehthumbs.db", "desktop.ini", "@eaDir", "__MACOSX", "lost+found", "$RECYCLE.BIN"})
# Seconds: a file changed less than this before it was read may change again without a new time, as a clock's step may
# be coarser than two writes (Git's documentation calls it "racy git").
_SETTLED_S = 2.0


def counts(name: str) -> bool:
    """Whether a file or folder of this name is one that somebody meant; hidden and foreign ones are not."""
    return bool(name) and not name.startswith(".") and name not in _FOREIGN


@dataclass(frozen=True, slots=True)
class Folder:
    """One folder of a store as it was seen: its files among MARKS, each with a text that changes when the file does.

    `versions` are those that are complete; `fault` says why the folder cannot be read.
    """

    marks: Mapping[str, str] = field(default_factory=dict)
    versions: frozenset[str] = frozenset()
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class _Seen:
    """A folder and the `_facts` it had when it was read; None where it may change again without other facts."""

    facts: tuple[object, ...] | None
    folder: Folder


class Directory:
    """The files below one directory. Methods that read or write raise StoreUnavailable where that fails."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._seen: dict[str, _Seen] = {}
        self._number = itertools.count()

    def look(self) -> dict[str, Folder]:
        """Every folder of the root by its name; one that did not change is the same object as at the last look.

        Raises:
            StoreUnavailable: the root is no directory that can be read.
        """
        try:
            with os.scandir(self._root) as entries:
                names = [entry.name for entry in entries if counts(entry.name) and _is_folder(entry)]
        except OSError as error:
            raise StoreUnavailable(f"the adapter store {self._root} cannot be read: {error.strerror}") from error
        self._seen = {name: seen for name in names if (seen := self._folder(name)) is not None}
        return {name: seen.folder for name, seen in self._seen.items()}

    def read(self, paths: Sequence[str], most: int) -> dict[str, bytes | Exception]:
        """Files' contents by path, or the error why one cannot be read; one of over `most` bytes is a ValueError."""
        return {path: self._read(path, most) for path in paths}

    @contextmanager
    def locked(self, make: bool = False) -> Iterator[None]:
        """Keep other writers out until the block ends, by a lock on the root, which `make` lets it make."""
        with _naming(self._root):
            if make:
                self._root.mkdir(parents=True, exist_ok=True)
            root = os.open(self._root, os.O_RDONLY)
        try:
            fcntl.flock(root, fcntl.LOCK_EX)
            yield
        finally:
            os.close(root)

    def put(self, path: str, content: bytes) -> None:
        """Make or replace a file; readers see the old content or the new."""
        file = self._root / path
        with _naming(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            staged = file.with_suffix(".staged")
            _write(staged, content)
            staged.replace(file)

    def add(self, folder: str, files: Mapping[str, bytes]) -> None:
        """Make a folder of files, which appears at once; does nothing where the folder is there."""
        with _naming(self._root / folder):
            if not (self._root / folder).is_dir():
                make(files, self._root / folder, self._root)

    def stamp(self, folder: str) -> str:
        """A text of names, sizes, times and inodes of the folder's files, which changes when one of them does."""
        facts: list[object] = []
        with suppress(OSError):
            for name, file in sorted(files_of(self._root / folder).items()):
                fact = file.stat()
                facts.append((name, fact.st_size, fact.st_mtime_ns, fact.st_ino))
        return str(facts)

    def local_path(self, folder: str) -> Path:
        """The local directory where `fetch` leaves a folder's files: where they are."""
        return self._root / folder

    def fetch(self, folder: str) -> None:
        """Do nothing: the files are on a disk of this machine and are used in place."""

    def release(self, folder: str) -> None:
        """Do nothing: nothing was copied, so there is nothing to remove."""

    def trim(self, keep: frozenset[str]) -> None:
        """Do nothing: nothing was copied, so there is nothing to remove."""

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all in it; nobody sees a part of a folder."""
        with _naming(self._root / path):
            remove(self._root / path, self._root)

    def _read(self, path: str, most: int) -> bytes | Exception:
        try:
            with (self._root / path).open("rb") as file:
                content = file.read(most + 1)
        except OSError as error:
            return error
        return content if len(content) <= most else ValueError(f"it has over {most} bytes")

    def _folder(self, name: str) -> _Seen | None:
        """One folder, read again if it may have changed; None: there is no such folder any more."""
        path, before = os.path.join(self._root, name), self._seen.get(name)  # noqa: PTH118 - 10,000 times a look
        try:
            if before and before.facts is not None and before.facts == _facts_now(path, before.folder):
                return before
            now = time.time()
            folder = self._read_folder(path)
            facts = _facts(path, folder)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not os.path.lexists(path):
                return None
            return _Seen(None, Folder(fault=f"{error.filename or path} cannot be read: {error.strerror}"))
        settled = folder.versions.issuperset(self._begun(path)) and all(_settled(fact, now) for fact in facts)
        if not settled:  # the marks are read again at the next look
            marks = {mark: f"{stamp} {next(self._number)}" for mark, stamp in folder.marks.items()}
            folder = Folder(marks, folder.versions, folder.fault)
        return _Seen(facts if settled else None, folder)

    def _read_folder(self, path: str) -> Folder:
        with os.scandir(path) as entries:
            there = {entry.name for entry in entries}
        marks = {mark: str(_fact(f"{path}/{mark}")) for mark in MARKS if mark in there}
        whole = (version for version in self._begun(path) if _exists(f"{path}/{VERSIONS}/{version}/{LAST}"))
        return Folder(marks, frozenset(whole))

    def _begun(self, path: str) -> list[str]:
        """The versions that have a folder, complete or not."""
        try:
            with os.scandir(f"{path}/{VERSIONS}") as entries:
                return [entry.name for entry in entries if VERSION.fullmatch(entry.name)]
        except FileNotFoundError:
            return []


def files_of(folder: Path) -> dict[str, Path]:
    """The files of a version by their paths in it; of its subfolders only those of a mixture's members count.

    Raises:
        OSError: the folder cannot be read.
    """
    folders = {folder, *members(folder).values()}
    there = (file for path in folders for file in path.iterdir() if counts(file.name) and file.is_file())
    return {str(file.relative_to(folder)): file for file in there}


def make(files: Mapping[str, bytes], target: Path, root: Path) -> None:
    """Make the directory `target` of `files`, complete or not at all; `root` is a directory on the same disk.

    Raises:
        OSError: it cannot be written.
    """
    with staged(target, root) as folder:
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            _write(folder / name, content)


@contextmanager
def staged(target: Path, root: Path) -> Iterator[Path]:
    """A new directory to fill, renamed to `target` when the block ends without an error, and removed otherwise.

    `root` is a directory on the same disk. Where another process made `target` meanwhile, that one stays.
    """
    root.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".staged-", dir=root))
    try:
        yield folder
        folder.chmod(0o755)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.rename(target)
        except OSError:
            if not target.is_dir():  # another process was first: by its name, with the same content
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove(path: Path, root: Path) -> None:
    """Remove a file, or a directory, which is renamed first so that nobody sees a part; `root` is on the same disk."""
    if path.is_dir() and not path.is_symlink():
        gone = Path(tempfile.mkdtemp(prefix=".gone-", dir=root))
        path.rename(gone / "x")
        shutil.rmtree(gone, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(f"the adapter store fails at {path}: {error.strerror or error}") from error


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir() or (entry.is_symlink() and not os.path.exists(entry.path))  # noqa: PTH110 - a DirEntry's
    except OSError:
        return True  # it cannot be told: reading it gives the reason


def _fact(path: str) -> tuple[int, int, int]:
    fact = os.stat(path)  # noqa: PTH116 - 10,000 times a look
    return fact.st_mtime_ns, fact.st_size, fact.st_ino


def _facts(path: str, folder: Folder) -> tuple[tuple[int, int, int], ...]:
    """Times, sizes and inodes of a folder, its `versions` and its marks: they change when the folder does."""
    return (
        _fact(path),
        _fact(f"{path}/{VERSIONS}") if _exists(f"{path}/{VERSIONS}") else (0, 0, 0),
        *(_fact(f"{path}/{mark}") for mark in folder.marks),
    )


def _facts_now(path: str, folder: Folder) -> tuple[tuple[int, int, int], ...] | None:
    """`_facts`, or None where something of it is gone."""
    try:
        return _facts(path, folder)
    except FileNotFoundError:
        return None


def _settled(fact: tuple[int, int, int], now: float) -> bool:
    return fact[0] / 1e9 + _SETTLED_S < now


def _exists(path: str) -> bool:
    try:
        _fact(path)
    except OSError:  # a version that cannot be read is not listed
        return False
    return True
