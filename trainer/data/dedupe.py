"""`data dedupe`: the same question of images that look the same is asked once; knows pixels only through hashes.

A perceptual hash proposes copies, and a 16x16 picture confirms them: hashes are blind to colour and to small parts, and
two charts that differ in one bar must stay two.
"""

import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import imagehash
import numpy as np
from PIL import Image
from tqdm import tqdm

from service.images import decode
from trainer.data import files
from trainer.data.config import DedupeOptions
from trainer.data.rows import scan
from trainer.data.write import Report, writing

BITS = 64
SIDE = 16


class Looks:
    """Images by how they look. Hashes within `distance` bits share one of `distance` + 1 bands: only those compare."""

    def __init__(self, distance: int, tolerance: int) -> None:
        self._distance = distance
        self._tolerance = tolerance
        bands = min(distance + 1, BITS)
        self._cuts = [BITS * band // bands for band in range(bands + 1)]
        self._bands: dict[tuple[int, int], list[int]] = {}
        self._seen: list[tuple[str, int, Any]] = []

    def first(self, name: str, image: Image.Image) -> str:
        """The name of the first image that looked like this one; its own if there was none."""
        bits = int(str(imagehash.phash(image)), 16)
        small = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.int16)
        keys = [(start, (bits >> start) % (1 << (end - start))) for start, end in pairwise(self._cuts)]
        for index in sorted({index for key in keys for index in self._bands.get(key, ())}):
            other, other_bits, other_small = self._seen[index]
            if (bits ^ other_bits).bit_count() <= self._distance and np.abs(
                small - other_small
            ).max() <= self._tolerance:
                return other
        for key in keys:
            self._bands.setdefault(key, []).append(len(self._seen))
        self._seen.append((name, bits, small))
        return name


def dedupe(options: DedupeOptions) -> Report:
    """Write each question about each look once.

    Raises:
        DataError: faulty rows, or a file that cannot be read or written.
        ServiceError: an image does not decode; `data check` and `data filter` find them all.
    """
    report = Report()
    looks = Looks(options.distance, options.tolerance)
    first: dict[str | None, str | None] = {None: None}
    asked: dict[tuple[Any, ...], str] = {}
    with writing(options.output, options.images, report) as writer:
        for row in tqdm(scan(options.data, options.images), desc="dedupe", unit="row"):
            if row.image is not None and row.image not in first:
                first[row.image] = looks.first(row.image, decode(files.read(row.image)))
            image = first[row.image]
            said = [_plain(text) for exchange in row.exchanges for text in exchange]
            key, answer = (image, *said[:-1]), said[-1]
            if key in asked:
                same = "the same" if asked[key] == answer else "otherwise"
                report.note(f"dropped, asked before and answered {same}", row.id)
                continue
            asked[key] = answer
            if image != row.image:
                report.note("kept, with the name of an image that looks the same", row.id)
            writer.write(replace(row, image=image))
    return report


def _plain(text: str) -> str:
    """Case, space and outer punctuation gone, and no more: "is a < b?" is not "is a > b?"."""
    return re.sub(r"\s+", " ", text.lower()).strip(" .,;:!?\"'")
