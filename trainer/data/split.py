"""Rows -> training and held-out rows, by image, so that no image is on both sides; seeded."""

import hashlib
import posixpath

from tqdm import tqdm

from trainer.data.config import SplitOptions
from trainer.data.rows import Row, read_rows, scan
from trainer.data.write import Report, writing
from trainer.errors import OptionError


def read_sides(data: str, images: str, eval_data: str | None, holdout: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Training and held-out rows: of two files, or of one split by `holdout` and `seed`.

    Raises:
        DataError: faulty rows.
        OptionError: one side would be empty.
    """
    rows = read_rows(data, images)
    return split(rows, holdout, seed) if eval_data is None else (rows, read_rows(eval_data, images))


def split(rows: list[Row], holdout: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Hold out about `holdout` of the images (text rows by id); a row's side depends on its image and the seed alone.

    Raises:
        OptionError: one side would be empty.
    """
    held = [held_out(row, holdout, seed) for row in rows]
    train = [row for row, out in zip(rows, held, strict=True) if not out]
    test = [row for row, out in zip(rows, held, strict=True) if out]
    if not train or not test:
        raise OptionError(f"--holdout {holdout} of {len(rows)} rows leaves one side empty: give --eval-data instead")
    return train, test


def held_out(row: Row, holdout: float, seed: int) -> bool:
    """Which side a row is on: all rows of an image, wherever it lies, are on the same."""
    key = f"{seed}:{posixpath.basename(row.image) if row.image else row.id}"
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "backslashreplace")).digest()[:8]) / 2**64 < holdout


def split_file(options: SplitOptions) -> str:
    """`data split`: write both sides, row by row.

    Raises:
        DataError: faulty rows, or a file that cannot be read or written.
        OptionError: one side would be empty.
    """
    if options.output == options.held_out:
        raise OptionError(f"--held-out {options.held_out}: is --output too; give it another name")
    larger, smaller = Report(), Report()
    with (
        writing(options.output, options.images, larger) as train,
        writing(options.held_out, options.images, smaller) as test,
    ):
        for row in tqdm(scan(options.data, options.images), desc="split", unit="row"):
            (test if held_out(row, options.holdout, options.seed) else train).write(row)
        if not larger.kept or not smaller.kept:
            rows = larger.kept + smaller.kept
            raise OptionError(f"--holdout {options.holdout} of {rows} rows leaves one side empty: choose another")
    return f"{options.output}: {larger}\n{options.held_out}: {smaller}"
