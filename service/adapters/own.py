"""What one service keeps on this machine between starts: copies of versions of a store at a URL, and verdicts.

Services that run at once each have a directory of their own, so that none removes what another uses; one that is
started again takes the first directory that is free, which is its old one where it runs alone. Copies are bounded in
bytes.
"""

import fcntl
import hashlib
import itertools
import logging
import os
import tempfile
from collections.abc import Collection, Iterator
from functools import cached_property
from pathlib import Path

from service.adapters import directory

log = logging.getLogger(__name__)


class Own:
    """A directory below `where` for the store at the URL `store`, locked when it is first needed. Methods block."""

    def __init__(self, where: Path, store: str, most_bytes: int) -> None:
        self._where = where / hashlib.sha256(store.encode()).hexdigest()[:16]
        self._most_bytes = most_bytes
        self._lock: int | None = None

    @cached_property
    def path(self) -> Path:
        """The directory, made and locked at first; where that fails, a new temporary directory for this run."""
        try:
            return self._claim()
        except OSError as error:
            fresh = Path(tempfile.mkdtemp(prefix="manylens-"))
            log.warning("%s cannot be used (%s): copies and verdicts are in %s for this run", self._where, error, fresh)
            return fresh

    def copies(self) -> Path:
        """The directory of the copies of versions."""
        return self.path / "copies"

    def trim(self, keep: Collection[str]) -> None:
        """Remove copies, those used longest ago first, until all are within the bound; none of the folders `keep`."""
        sizes = {copy: sum(file.stat().st_size for file in copy.rglob("*")) for copy in self._all()}
        over = sum(sizes.values()) - self._most_bytes
        kept = {self.copies() / folder for folder in keep}
        for copy in sorted(sizes.keys() - kept, key=lambda each: each.stat().st_mtime):
            if over <= 0:
                return
            directory.remove(copy, self.path)
            over -= sizes[copy]

    def close(self) -> None:
        """Unlock the directory, so that another process may take it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _all(self) -> Iterator[Path]:
        return self.copies().glob(f"*/{directory.VERSIONS}/*")

    def _claim(self) -> Path:
        for number in itertools.count(1):
            place = self._where / str(number)
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            if place.stat().st_uid != os.getuid():
                raise PermissionError(f"{place} belongs to another user")
            lock = os.open(place / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            self._lock = lock
            for left in [*place.glob(".staged-*"), *place.glob(".gone-*")]:  # left by a process that was killed
                directory.remove(left, place)
            return place
        raise AssertionError
