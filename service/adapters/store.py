"""The adapter store on disk: immutable versions named by the digest of their content, aliases moved atomically.

    ROOT/NAME/versions/DIGEST/{adapter_config.json, adapter_model.safetensors, manifest.json, images.txt, README.md}
    ROOT/NAME/aliases.json            {"stable": DIGEST}

Knows the layout and nothing of what the files mean. A name or version that comes from outside is matched against what
is here, never joined to a path.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from service.errors import AdapterNotFound, AdapterRefused
from service.types import Adapter

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
STABLE = "stable"


class Store:
    """Adapters under one directory. Every method reads the disk afresh: other processes write here too."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        """Every adapter that has a stable version, sorted."""
        return sorted(file.parent.name for file in self.root.glob("*/aliases.json") if NAME.fullmatch(file.parent.name))

    def stable(self, name: str) -> Adapter:
        """The version that the alias `stable` names.

        Raises:
            AdapterNotFound: no such adapter, or the alias names a version that is not there.
        """
        if name not in self.names():
            raise AdapterNotFound(f"no adapter {name!r} in {self.root}; there are: {', '.join(self.names()) or 'none'}")
        version = str(json.loads((self.root / name / "aliases.json").read_text()).get(STABLE))
        path = self.root / name / "versions" / version
        if not re.fullmatch(r"[0-9a-f]{64}", version) or not path.is_dir():
            raise AdapterNotFound(f"{name}'s stable version {version[:12]} is not in {path.parent}")
        return Adapter(name, version, path)

    def verify(self, adapter: Adapter) -> None:
        """Check that a version's content still is what its name says.

        Raises:
            AdapterRefused: something in the directory changed after it was published.
        """
        found = digest({file.name: file.read_bytes() for file in adapter.path.iterdir()})
        if found != adapter.version:
            raise AdapterRefused("corrupt", f"{adapter.path} holds {found[:12]}, not what was published under its name")

    def publish(self, name: str, files: Mapping[str, bytes]) -> Adapter:
        """Add a version made of `files` and point the alias `stable` at it; killed at any moment, none or all is seen.

        Raises:
            ValueError: a name that is no adapter name.
        """
        if not NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} is no adapter name: use up to 64 of a-z 0-9 . _ - and start with a letter or digit"
            )
        version = digest(files)
        path = self.root / name / "versions" / version
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_dir():
            staged = Path(tempfile.mkdtemp(prefix=".staged-", dir=path.parent))
            try:
                for file, content in files.items():
                    _write(staged / file, content)
                staged.chmod(0o755)
                staged.rename(path)
            finally:
                shutil.rmtree(staged, ignore_errors=True)
        self._point(name, version)
        return Adapter(name, version, path)

    def _point(self, name: str, version: str) -> None:
        file = self.root / name / "aliases.json"
        aliases = json.loads(file.read_text()) if file.is_file() else {}
        staged = file.with_suffix(".staged")
        _write(staged, json.dumps({**aliases, STABLE: version}, indent=2).encode() + b"\n")
        staged.replace(file)


def digest(files: Mapping[str, bytes]) -> str:
    """SHA-256 over the sorted names and contents of a version's files, in hex."""
    lines = (f"{name} {hashlib.sha256(content).hexdigest()}\n" for name, content in sorted(files.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
