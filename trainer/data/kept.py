"""What was found in files, kept on disk by a file's URL and stamp: what has not changed is not read again."""

import logging
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

FILE = "images.sqlite"


class Kept:
    """A table with one finding for each file; without a folder, or where it cannot be written, nothing is kept."""

    def __init__(self, folder: Path | None, table: str) -> None:
        """`table` names the kind of finding: findings of another meaning need another name."""
        self._name = table
        self._table: sqlite3.Connection | None = None
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._table = sqlite3.connect(folder / FILE, timeout=60)
            self._table.execute(
                f"CREATE TABLE IF NOT EXISTS {table} (url TEXT PRIMARY KEY, stamp TEXT NOT NULL, found)"
            )
        except (OSError, sqlite3.Error) as error:
            self._give_up(f"{folder / FILE}: {error}")

    def known(self, stamps: Mapping[str, str | None]) -> dict[str, Any]:
        """What was found in the files that have the stamp they had then, by URL."""
        if self._table is None or not stamps:
            return {}
        marks = ",".join("?" * len(stamps))
        try:
            rows = self._table.execute(f"SELECT * FROM {self._name} WHERE url IN ({marks})", list(stamps))
            return {url: found for url, stamp, found in rows if stamp == stamps[url]}
        except sqlite3.Error as error:
            self._give_up(str(error))
            return {}

    def keep(self, found: Mapping[str, tuple[str | None, Any]]) -> None:
        """Remember stamps and findings by URL, those of files without a stamp excepted."""
        rows = [(url, stamp, what) for url, (stamp, what) in found.items() if stamp is not None]
        if self._table is None or not rows:
            return
        try:
            with self._table:
                self._table.executemany(f"INSERT OR REPLACE INTO {self._name} VALUES (?, ?, ?)", rows)
        except sqlite3.Error as error:
            self._give_up(str(error))

    def close(self) -> None:
        """Close the file."""
        if self._table is not None:
            self._table.close()
            self._table = None

    def _give_up(self, why: str) -> None:
        log.warning("what was found in images is not kept for the next run: %s", why)
        self.close()
