"""The adapter store: immutable versions named by the digest of their content, aliases moved atomically.

    ROOT/NAME/versions/DIGEST/{adapter_config.json, adapter_model.safetensors, manifest.json, images.txt, README.md}
    ROOT/NAME/versions/DIGEST/{image, text}/{adapter_config.json, adapter_model.safetensors}         of a mixture
    ROOT/NAME/aliases.json            {"stable": DIGEST, "canary": {"version": DIGEST, "weight": 0.05}}
    ROOT/NAME/deleted.json            the aliases of an adapter that was deleted, while its files wait to be removed
    ROOT/NAME/collected.json          {DIGEST: Unix time}: versions that nothing names, and that are to be removed
    ROOT/NAME/router.json             {"image": "shapes", "text": "facts"}: a name for other adapters, instead of one

Knows the layout and nothing of what the files mean. A name or version that a caller sends is looked up in the catalog,
and not joined to a path.
"""

import hashlib
import json
import re
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from service.adapters import aliases, routing
from service.adapters.aliases import CANARY, STABLE, Aliases
from service.adapters.bucket import Bucket
from service.adapters.directory import LAST, VERSIONS, Directory, Folder, counts, files_of
from service.adapters.own import Own
from service.adapters.routing import Catalog, Fault, Router, Shelf, some
from service.errors import AdapterNotFound, AdapterRefused, StoreUnavailable
from service.types import Adapter

_NAME = re.compile(aliases.NAME)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_CACHE = Path(tempfile.gettempdir()) / "manylens-adapters"
_CACHE_BYTES = 20_000_000_000
# Bytes of the largest aliases.json, router.json or collected.json that is read; one of a thousand versions has 80 KB.
_MOST_NAMES = 1_000_000

_ALIASES, _ROUTER, _DELETED, _COLLECTED = "aliases.json", "router.json", "deleted.json", "collected.json"
_Entry = Shelf | Router | Fault | None


class Store:
    """Adapters at one path or fsspec URL. Methods block, and read the store anew: other processes write to it too.

    Methods that read or write the store raise StoreUnavailable where it cannot be read or written now. `cache` is the
    directory for copies of a store at a URL, of `cache_bytes` at most.
    """

    def __init__(self, root: str | Path, cache: Path | None = None, cache_bytes: int = _CACHE_BYTES) -> None:
        self.root = root
        self.own = Own(cache or _CACHE, str(root), cache_bytes)
        self._files = _files_at(root, self.own)
        self._looking = threading.Lock()
        self._known: dict[str, tuple[Folder, _Entry]] = {}
        self._last = Catalog()

    def catalog(self) -> Catalog:
        """All adapters and routers of the store; the same object as the last time where nothing changed.

        An entry that cannot be read is among the faults and disturbs no other.

        Raises:
            StoreUnavailable: also where the store is empty and was not before, though its adapters were not deleted by
                `delete`: a disk that is not mounted looks like that.
        """
        with self._looking:
            found = self._files.look()
            if not found and (held := self._last.held()):
                raise StoreUnavailable(
                    f"the adapter store {self.root} is empty and held {held} adapters before: is its disk mounted, its "
                    "bucket whole? (DELETE /v1/adapters/NAME removes the last one too)"
                )
            stale = {name: folder for name, folder in found.items() if self._stale(name, folder)}
            if stale or found.keys() != self._known.keys():
                entries = self._read(stale)
                self._known = {
                    name: (folder, entries[name] if name in stale else self._known[name][1])
                    for name, folder in found.items()
                }
                self._last = self._sort()
            return self._last

    def names(self) -> list[str]:
        """The names of adapters that have a stable version, and of routers, sorted."""
        return self.catalog().names()

    def stable(self, name: str) -> Adapter:
        """The version that the alias `stable` names, its files on this machine.

        Raises: what `named` raises.
        """
        return self.named(name, STABLE)

    def named(self, name: str, alias: str) -> Adapter:
        """The version that an alias of an adapter names, its files on this machine.

        Raises:
            AdapterNotFound: no such adapter or alias, or the alias names a version that is not there.
        """
        catalog = self.catalog()
        if name not in catalog.shelves:
            raise AdapterNotFound(f"no adapter {name!r} in {self.root}; there are: {some(catalog.names())}")
        version = routing.version_of(name, catalog.shelves[name], alias)
        if version not in catalog.shelves[name].versions:
            raise AdapterNotFound(f"{name}'s {alias} version {version[:12]} is not in {self.root}")
        adapter = self.at(name, version)
        self._files.fetch(_folder(adapter))
        return adapter

    def at(self, name: str, version: str) -> Adapter:
        """The Adapter of a name and a version of `catalog`; its path is where `fetch` leaves its files."""
        return Adapter(name, version, self._files.local_path(f"{name}/{VERSIONS}/{version}"))

    def fetch(self, adapter: Adapter, whole: bool = False) -> None:
        """Copy a version's files to this machine and check their digest, unless they are known to be `whole`.

        Raises:
            AdapterRefused: reason `corrupt`: their digest is another.
            StoreUnavailable: they cannot be read now, or are not there yet.
        """
        whole = whole and adapter.path.is_dir()
        self._files.fetch(_folder(adapter))
        if whole:
            return
        try:
            self.verify(adapter)
        except (AdapterRefused, StoreUnavailable):  # perhaps a copy from earlier that was cut short
            self._files.release(_folder(adapter))
            self._files.fetch(_folder(adapter))
            self.verify(adapter)

    def verify(self, adapter: Adapter) -> None:
        """Check that the digest of a version's local files is its name.

        Raises:
            AdapterRefused: reason `corrupt`: a file was changed, added or removed after it was published.
            StoreUnavailable: a file cannot be read.
        """
        try:
            sums = {name: _sum(file) for name, file in files_of(adapter.path).items()}
        except OSError as error:
            raise StoreUnavailable(f"{error.filename or adapter.path} cannot be read: {error.strerror}") from error
        if (found := _digest(sums)) != adapter.version:
            raise AdapterRefused("corrupt", f"{adapter.path} holds {found[:12]}, not what was published under its name")

    def stamp(self, adapter: Adapter) -> str:
        """A text that changes when a version's files do; of a store at a URL as of the last look."""
        return self._files.stamp(_folder(adapter))

    def release(self, adapter: Adapter) -> None:
        """Remove the local copy of a version of a store at a URL."""
        self._files.release(_folder(adapter))

    def trim(self, used: frozenset[Adapter]) -> None:
        """Remove local copies, those used longest ago first, until they are within the bound; none of `used`."""
        self._files.trim(frozenset(map(_folder, used)))

    def publish(self, name: str, files: Mapping[str, bytes], canary: float | None = None) -> Adapter:
        """Add a version made of `files` and point the alias `stable` at it, in this order; returns it.

        If the process is killed before the alias is written, no alias names the version. With `canary` it is the alias
        `canary` that gets it, with that share (0 to 1) of the questions; the first version of a name is stable anyway.

        Raises:
            ValueError: `name` is no adapter name.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no adapter name: {_NAMES}")
        adapter = self.at(name, digest(files))
        parts = {file: files[file] for file in sorted(files, key=lambda file: file == LAST) if counts(file)}
        with self._files.locked(make=True):
            self._files.add(_folder(adapter), parts)
            named = self._aliases(name) or Aliases()
            if canary is None or STABLE not in named.named:
                self._point(name, named.point(STABLE, adapter.version))
            else:
                self._point(name, named.point(CANARY, adapter.version, canary))
        self.fetch(adapter)
        return adapter

    def change(self, name: str, change: Callable[[Aliases], Aliases]) -> None:
        """Replace an adapter's aliases by what `change` returns for them; what it raises is raised.

        Raises:
            AdapterNotFound: there is no such adapter.
        """
        with self._files.locked():
            old = self._aliases(name)
            if old is None:
                raise AdapterNotFound(f"no adapter {name!r} in {self.root}")
            self._point(name, change(old))

    def delete(self, name: str) -> None:
        """Remove an adapter's aliases, so that no request finds it; `free` removes its files."""
        with self._files.locked():
            self._files.put(f"{name}/{_DELETED}", (self._aliases(name) or Aliases()).dump())
            self._files.remove(f"{name}/{_ALIASES}")

    def free(self, name: str) -> None:
        """Remove the files of a deleted adapter; one that was published again meanwhile stays."""
        with self._files.locked():
            if self._aliases(name) is None:
                self._files.remove(name)

    def collect(self, name: str, keep: int, age_s: float, now: float) -> tuple[frozenset[str], frozenset[str]]:
        """Mark an adapter's versions that no alias names, and none named among its last `keep`; remove old marked ones.

        Versions marked `age_s` seconds before `now` (Unix time) or longer are removed. Returns those marked and those
        removed. Requests no longer find a marked version once their replica has read the mark; an alias that names it
        removes the mark. `catalog` must have been called before.
        """
        with self._files.locked():
            named, folder = self._aliases(name), self._known[name][0] if name in self._known else Folder()
            if named is None:
                return frozenset(), frozenset()
            kept = {alias.version for alias in named.named.values()}
            kept |= {
                version for past in named.previous.values() for version in past[len(past) - min(keep, len(past)) :]
            }
            file = f"{name}/{_COLLECTED}"
            text = self._files.read([file], _MOST_NAMES)[file]
            before: dict[str, float] = {} if isinstance(text, FileNotFoundError) else json.loads(_text(text))
            marks = {version: before.get(version, now) for version in folder.versions - kept}
            old = frozenset(version for version, since in marks.items() if now - since >= age_s)
            if old:
                self._point(name, named.less(old))
            for version in old:
                self._files.remove(f"{name}/{VERSIONS}/{version}")
            waiting = {version: since for version, since in marks.items() if version not in old}
            if waiting:
                self._files.put(file, json.dumps(waiting).encode())
            elif before:
                self._files.remove(file)
            return frozenset(waiting), old

    def close(self) -> None:
        """Unlock the directory of copies and verdicts, so that another process may use it."""
        self.own.close()

    def _stale(self, name: str, folder: Folder) -> bool:
        """Whether a folder must be read again: it has changed, or could not be read the last time."""
        before, entry = self._known.get(name, (None, None))
        return folder != before or (isinstance(entry, Fault) and entry.reason == "store")

    def _read(self, folders: Mapping[str, Folder]) -> dict[str, _Entry]:
        """The entries of these folders, read from the files among their marks."""
        named = {name: folder for name, folder in folders.items() if folder.fault is None and _NAME.fullmatch(name)}
        paths = [f"{name}/{mark}" for name, folder in named.items() for mark in _worth_reading(folder)]
        texts = self._files.read(paths, _MOST_NAMES)
        return {name: _entry(name, folder, texts) for name, folder in folders.items()}

    def _sort(self) -> Catalog:
        entries = {name: entry for name, (_, entry) in self._known.items()}
        return Catalog(
            {name: entry for name, entry in entries.items() if isinstance(entry, Shelf)},
            {name: entry for name, entry in entries.items() if isinstance(entry, Router)},
            {name: entry for name, entry in entries.items() if isinstance(entry, Fault)},
            frozenset(
                name for name, (folder, entry) in self._known.items() if entry is None and _DELETED in folder.marks
            ),
        )

    def _aliases(self, name: str) -> Aliases | None:
        file = f"{name}/{_ALIASES}"
        text = self._files.read([file], _MOST_NAMES)[file]
        if isinstance(text, FileNotFoundError):
            return None
        return Aliases.parse(_text(text))

    def _point(self, name: str, aliases: Aliases) -> None:
        self._files.put(f"{name}/{_ALIASES}", aliases.dump())


_NAMES = "use up to 64 of a-z 0-9 . _ - and start with a letter or digit"


def digest(files: Mapping[str, bytes]) -> str:
    """SHA-256, in hex, over the sorted names and contents of a version's files, hidden and foreign ones left out."""
    return _digest({name: hashlib.sha256(content).hexdigest() for name, content in files.items() if counts(name)})


def _digest(sums: Mapping[str, str]) -> str:
    lines = (f"{name} {each}\n" for name, each in sorted(sums.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _sum(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _files_at(where: str | Path, own: Own) -> Directory | Bucket:
    """The files at a local path or an fsspec URL.

    Raises:
        ValueError, ImportError: no file system goes by the URL's protocol, or its package is missing.
    """
    if not _URL.match(str(where)):
        return Directory(Path(where))
    fs, root = url_to_fs(str(where))
    return Directory(Path(root)) if isinstance(fs, LocalFileSystem) else Bucket(fs, root.rstrip("/"), own)


def _worth_reading(folder: Folder) -> list[str]:
    return [mark for mark in (_ALIASES, _ROUTER, _COLLECTED) if mark in folder.marks]


def _entry(name: str, folder: Folder, texts: Mapping[str, bytes | Exception]) -> _Entry:
    """The entry of a folder: an adapter, a router, or why it is neither; None: a deleted adapter."""
    if folder.fault is not None:
        return Fault("store", folder.fault)
    if not _NAME.fullmatch(name):
        return Fault("name", f"{name[:80]!r} is no adapter name: {_NAMES}")
    mark = _ALIASES if _ALIASES in folder.marks else _ROUTER
    if mark not in folder.marks:
        return _misplaced(name, folder)
    try:
        if mark == _ROUTER:
            return Router.parse(_text(texts[f"{name}/{mark}"]))
        waiting = json.loads(_text(texts[f"{name}/{_COLLECTED}"])) if _COLLECTED in folder.marks else {}
        named = Aliases.parse(_text(texts[f"{name}/{mark}"]))
    except OSError as error:
        return Fault("store", f"{name}/{mark} cannot be read now: {error}")
    except ValueError as error:
        return Fault("aliases", f"{name}/{mark} cannot be read: {error}")
    going = set(waiting) - {alias.version for alias in named.named.values()}
    return Shelf(named, folder.versions - going if going else folder.versions)


def _misplaced(name: str, folder: Folder) -> Fault | None:
    if _DELETED in folder.marks:
        return None
    if LAST in folder.marks:
        return Fault("layout", f"{name} holds PEFT's files and no versions: `python -m trainer publish` takes it in")
    if folder.versions:
        way = f'write {{"{STABLE}": "{min(folder.versions)}"}} to it, or publish again'
        return Fault("layout", f"{name} has versions and no {_ALIASES}, so no version is served: {way}")
    return Fault("layout", f"{name} holds neither {_ALIASES} nor {_ROUTER}: it is no adapter")


def _text(content: bytes | Exception) -> bytes:
    """A file's content.

    Raises:
        OSError, ValueError: it could not be read.
    """
    if isinstance(content, Exception):
        raise content if isinstance(content, OSError | ValueError) else OSError(str(content))
    return content.removeprefix(b"\xef\xbb\xbf")  # as some editors begin a file


def _folder(adapter: Adapter) -> str:
    return f"{adapter.name}/{VERSIONS}/{adapter.version}"
