"""Rows -> training and held-out rows, by image, so that no image is on both sides; seeded."""

import hashlib

from trainer.data.rows import Row
from trainer.errors import OptionError


def split(rows: list[Row], holdout: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Hold out about `holdout` of the images (text rows by id); a row's side depends on its image and the seed alone.

    Raises:
        OptionError: one side would be empty.
    """
    held = [_fraction(row, seed) < holdout for row in rows]
    train = [row for row, out in zip(rows, held, strict=True) if not out]
    test = [row for row, out in zip(rows, held, strict=True) if out]
    if not train or not test:
        raise OptionError(f"--holdout {holdout} of {len(rows)} rows leaves one side empty: give --eval-data instead")
    return train, test


def _fraction(row: Row, seed: int) -> float:
    key = f"{seed}:{row.image.name if row.image else row.id}"
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64
