"""Which bytes an image file holds: SHA-256 by path, kept between runs, so that a set of images is read for it once."""

import logging
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from tqdm import tqdm

from trainer.data import files
from trainer.data.rows import Row
from trainer.errors import DataError

log = logging.getLogger(__name__)

# Where commands keep it that have no option for it.
DEFAULT = Path("runs/features")
FILE = "images.sqlite"
# Files between two writes of the index, and read at once.
_BATCH, _THREADS = 512, 4
_TABLE = "CREATE TABLE IF NOT EXISTS images (url TEXT PRIMARY KEY, stamp TEXT NOT NULL, sha256 TEXT NOT NULL)"


def image_digests(rows: Iterable[Row], folder: Path | None) -> dict[str, str]:
    """SHA-256 in hex of the images of `rows`, by image, in the rows' order.

    Those known in `folder` from before are not read again while size and times of the file are the same. A folder
    that cannot be written costs the next run the same reading, and is said aloud; nothing else depends on it.

    Raises:
        DataError: images that cannot be read, all of them.
    """
    first: dict[str, str] = {}
    for row in rows:
        if row.image:
            first.setdefault(row.image, row.place or row.id)
    images = list(first)
    found: dict[str, str] = {}
    faults: list[str] = []
    with (
        closing(_Index(folder)) as index,
        ThreadPoolExecutor(_THREADS) as threads,
        tqdm(total=len(images), desc="image digests", unit="image", disable=None) as progress,
    ):
        for batch in _batched(images):
            stamps = dict(zip(batch, threads.map(files.stamp, batch), strict=True))
            known = index.known(stamps)
            unread = [image for image in batch if image not in known]
            for image, digest in zip(unread, threads.map(_sha256, unread), strict=True):
                if isinstance(digest, DataError):
                    faults += [f"{first[image]}: {fault}" for fault in digest.faults]
                else:
                    known[image] = digest
            index.keep({image: (stamps[image], known[image]) for image in unread if image in known})
            found |= {image: known[image] for image in batch if image in known}
            progress.update(len(batch))
    if faults:
        raise DataError(faults)
    return found


class _Index:
    """The table on disk; without a folder, or where the disk does not take it, nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._table: sqlite3.Connection | None = None
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._table = sqlite3.connect(folder / FILE, timeout=60)
            self._table.execute(_TABLE)
        except (OSError, sqlite3.Error) as error:
            self._give_up(f"{folder / FILE}: {error}")

    def known(self, stamps: dict[str, str | None]) -> dict[str, str]:
        """Digests of the images that have the stamp they had then."""
        if self._table is None:
            return {}
        marks = ",".join("?" * len(stamps))
        try:
            rows = self._table.execute(f"SELECT url, stamp, sha256 FROM images WHERE url IN ({marks})", list(stamps))
            return {url: digest for url, stamp, digest in rows if stamp == stamps[url]}
        except sqlite3.Error as error:
            self._give_up(str(error))
            return {}

    def keep(self, digests: dict[str, tuple[str | None, str]]) -> None:
        """Remember digests, those of files without a stamp excepted."""
        if self._table is None or not digests:
            return
        rows = [(url, stamp, digest) for url, (stamp, digest) in digests.items() if stamp is not None]
        try:
            with self._table:
                self._table.executemany("INSERT OR REPLACE INTO images VALUES (?, ?, ?)", rows)
        except sqlite3.Error as error:
            self._give_up(str(error))

    def close(self) -> None:
        """Let go of the file."""
        if self._table is not None:
            self._table.close()
            self._table = None

    def _give_up(self, why: str) -> None:
        log.warning("digests of images are not kept for the next run: %s", why)
        self.close()


def _sha256(url: str) -> str | DataError:
    try:
        return files.sha256(url)
    except DataError as error:
        return error


def _batched(images: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(images), _BATCH):
        yield images[start : start + _BATCH]
