"""What one service keeps on this machine between starts: copies of versions that lie elsewhere, and verdicts.

Services that run at once each have a directory of their own, so that none removes what another uses; one that starts
again finds the one it had. The copies have a bound in bytes.
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
    """A directory below `where` for one store, taken by a lock when it is first needed; blocking."""

    def __init__(self, where: Path, store: str, most_bytes: int) -> None:
        self._where = where / hashlib.sha256(store.encode()).hexdigest()[:16]
        self._most_bytes = most_bytes
        self._lock: int | None = None

    @cached_property
    def path(self) -> Path:
        """The directory; where none can be made, a new one in the system's place for such, kept for this run alone."""
        try:
            return self._claim()
        except OSError as error:
            fresh = Path(tempfile.mkdtemp(prefix="manylens-"))
            log.warning("%s cannot be used (%s): copies and verdicts are in %s for this run", self._where, error, fresh)
            return fresh

    def copies(self) -> Path:
        """Where copies of versions lie."""
        return self.path / "copies"

    def trim(self, keep: Collection[str]) -> None:
        """Remove the copies that were used longest ago until all fit the bound, and never one of `keep`."""
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
            for left in [*place.glob(".staged-*"), *place.glob(".gone-*")]:  # by a process that was killed
                directory.remove(left, place)
            return place
        raise AssertionError
