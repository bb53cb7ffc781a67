"""The adapter store: immutable versions named by the digest of their content, aliases moved atomically.

    ROOT/NAME/versions/DIGEST/{adapter_config.json, adapter_model.safetensors, manifest.json, images.txt, README.md}
    ROOT/NAME/aliases.json            {"stable": DIGEST, "canary": {"version": DIGEST, "weight": 0.05}}
    ROOT/NAME/deleted.json            the aliases of an adapter that was deleted, while its files wait to be removed
    ROOT/NAME/router.json             {"image": "shapes", "text": "facts"}: a name for other adapters, instead of one

Knows the layout and nothing of what the files mean. A name or version that comes from outside is matched against what
is here, never joined to a path.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from service.adapters import aliases, routing
from service.adapters.aliases import STABLE, Aliases
from service.adapters.files import files_at
from service.adapters.routing import Catalog, Router, Shelf
from service.errors import AdapterNotFound, AdapterRefused
from service.types import Adapter

# A version is there once its PEFT configuration is: written last where a folder cannot appear at once.
LAST = "adapter_config.json"
_LAYOUT = re.compile(
    rf"({aliases.NAME})/(aliases\.json|deleted\.json|router\.json|versions/({aliases.VERSION})/{LAST})"
)


class Store:
    """Adapters at one path or fsspec URL. Every method reads afresh, and blocks: other processes write here too."""

    def __init__(self, root: str | Path, cache: Path | None = None) -> None:
        self.root = root
        self._files = files_at(root, cache)

    def catalog(self) -> Catalog:
        """All that is here; an entry that cannot be read is among the faults and disturbs no other."""
        found = [match for path in self._files.paths() if (match := _LAYOUT.fullmatch(path))]
        texts = self._files.read([match[0] for match in found if match[2] in ("aliases.json", "router.json")])
        shelves: dict[str, Shelf] = {}
        routers: dict[str, Router] = {}
        faults: dict[str, str] = {}
        for path, text in texts.items():
            name, _, file = path.partition("/")
            versions = frozenset(match[3] for match in found if match[1] == name and match[3])
            try:
                if file == "aliases.json":
                    shelves[name] = Shelf(Aliases.parse(text), versions)
                else:
                    routers[name] = Router.parse(text)
            except ValueError as error:
                faults[name] = f"{path} cannot be read: {error}"
        deleted = {match[1] for match in found if match[2] == "deleted.json"} - shelves.keys() - faults.keys()
        return Catalog(
            shelves, {name: routers[name] for name in routers.keys() - shelves.keys()}, faults, frozenset(deleted)
        )

    def names(self) -> list[str]:
        """Every adapter that has a stable version, and every router, sorted."""
        return self.catalog().names()

    def stable(self, name: str) -> Adapter:
        """The version that the alias `stable` names, its files here.

        Raises:
            AdapterNotFound: no such adapter, or the alias names a version that is not there.
        """
        catalog = self.catalog()
        if name not in catalog.shelves:
            raise AdapterNotFound(f"no adapter {name!r} in {self.root}; there are: {', '.join(catalog.names())}")
        version = routing.version_of(name, catalog.shelves[name], STABLE)
        if version not in catalog.shelves[name].versions:
            raise AdapterNotFound(f"{name}'s stable version {version[:12]} is not in {self.root}")
        adapter = self.at(name, version)
        self._files.fetch(_folder(adapter))
        return adapter

    def at(self, name: str, version: str) -> Adapter:
        """A version as `catalog` gives it, and where `fetch` leaves its files; asks no disk."""
        return Adapter(name, version, self._files.here(f"{name}/versions/{version}"))

    def fetch(self, adapter: Adapter) -> None:
        """Bring a version's files here and check that they are what was published.

        Raises:
            AdapterRefused: reasons `files` and `corrupt`.
        """
        self._files.fetch(_folder(adapter))
        try:
            self.verify(adapter)
        except AdapterRefused:  # perhaps a copy from earlier that was cut short
            self._files.release(_folder(adapter))
            self._files.fetch(_folder(adapter))
            self.verify(adapter)

    def verify(self, adapter: Adapter) -> None:
        """Check that a version's content still is what its name says.

        Raises:
            AdapterRefused: something in the directory changed after it was published, or it is not there.
        """
        try:
            found = digest({file.name: file.read_bytes() for file in adapter.path.iterdir()})
        except OSError as error:
            raise AdapterRefused("files", f"{adapter.path} cannot be read: {error}") from error
        if found != adapter.version:
            raise AdapterRefused("corrupt", f"{adapter.path} holds {found[:12]}, not what was published under its name")

    def stamp(self, adapter: Adapter) -> str:
        """A text that changes when a version's files do."""
        return self._files.stamp(_folder(adapter))

    def release(self, adapter: Adapter) -> None:
        """Free the local copy of a version, where the store is elsewhere."""
        self._files.release(_folder(adapter))

    def publish(self, name: str, files: Mapping[str, bytes]) -> Adapter:
        """Add a version made of `files` and point the alias `stable` at it; killed at any moment, none or all is seen.

        Raises:
            ValueError: a name that is no adapter name.
        """
        if not re.fullmatch(aliases.NAME, name):
            raise ValueError(
                f"{name!r} is no adapter name: use up to 64 of a-z 0-9 . _ - and start with a letter or digit"
            )
        adapter = self.at(name, digest(files))
        with self._files.locked():
            self._files.add(_folder(adapter), dict(sorted(files.items(), key=lambda file: file[0] == LAST)))
            self._point(name, (self._aliases(name) or Aliases()).point(STABLE, adapter.version))
        self.fetch(adapter)
        return adapter

    def change(self, name: str, change: Callable[[Aliases], Aliases]) -> None:
        """Change an adapter's aliases.

        Raises:
            AdapterNotFound: it has none.
        """
        with self._files.locked():
            old = self._aliases(name)
            if old is None:
                raise AdapterNotFound(f"no adapter {name!r} in {self.root}")
            self._point(name, change(old))

    def delete(self, name: str) -> None:
        """Take an adapter's aliases away, so that no one finds it; `free` removes its files."""
        with self._files.locked():
            self._files.put(f"{name}/deleted.json", (self._aliases(name) or Aliases()).dump())
            self._files.remove(f"{name}/aliases.json")

    def free(self, name: str) -> None:
        """Remove the files of a deleted adapter; one that was published again meanwhile stays."""
        with self._files.locked():
            if self._aliases(name) is None:
                self._files.remove(name)

    def _aliases(self, name: str) -> Aliases | None:
        file = f"{name}/aliases.json"
        text = self._files.read([file]).get(file)
        return None if text is None else Aliases.parse(text)

    def _point(self, name: str, aliases: Aliases) -> None:
        self._files.put(f"{name}/aliases.json", aliases.dump())


def digest(files: Mapping[str, bytes]) -> str:
    """SHA-256 over the sorted names and contents of a version's files, in hex."""
    lines = (f"{name} {hashlib.sha256(content).hexdigest()}\n" for name, content in sorted(files.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _folder(adapter: Adapter) -> str:
    return f"{adapter.name}/versions/{adapter.version}"
