"""Does an adapter look at the pictures? The same questions once more, with one grey picture in place of every image.

The picture has the colour that the base pads with, the mean of what it was trained on. Where the adapter is right as
often as before, the questions alone tell the answers, and its score says nothing of seeing.
"""

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest

import numpy as np

from trainer.data.row import Row
from trainer.evaluation.intervals import Interval, intervals
from trainer.evaluation.score import right

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Blind:
    """The shares of right answers to `rows` questions about `images` images, of `categories` categories.

    `shown` is with each question's own image, `hidden` with the grey picture, `gain` the first minus the second,
    paired by row.
    """

    rows: int
    images: int
    categories: int
    shown: Interval
    hidden: Interval
    gain: Interval

    @property
    def looks(self) -> bool:
        """Whether the images surely help: the whole interval of `gain` is above zero."""
        return self.gain.low > 0

    @property
    def verdict(self) -> str:
        """Whether the adapter looks at the pictures, in words."""
        if self.looks:
            return "it looks at the pictures"
        if self.shown.mean == self.hidden.mean == 0:
            return "whether it looks at the pictures cannot be told: no answer is right, with them or without"
        if self.gain.high <= 0:
            return "it does not look at the pictures: without them it is right as often"
        return "that it looks at the pictures is not shown: the interval of the difference includes zero"


@dataclass(frozen=True, slots=True)
class NotAsked:
    """The control was not made; `why` says for what reason, in words that follow a colon."""

    why: str


# What --blind-rows 0, and rows without any image, leave to say.
NO_ROWS, NO_IMAGE = NotAsked("--blind-rows is 0"), NotAsked("no row has an image")


def blind_places(rows: Sequence[Row], most: int, seed: int) -> list[int]:
    """Places of at most `most` rows that have an image, drawn by `seed`, one of each category in turn, in order."""
    by_category: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        if row.image:
            by_category.setdefault(row.category, []).append(place)
    rng = random.Random(seed)
    drawn = [rng.sample(places, len(places)) for places in by_category.values()]
    turns = (place for turn in zip_longest(*drawn) for place in turn if place is not None)
    return sorted(islice(turns, most))


def why_none(most: int) -> NotAsked:
    """Why `blind_places` found no row, where it may take `most`."""
    return NO_IMAGE if most else NO_ROWS


def blind_control(rows: Sequence[Row], shown: Sequence[str], hidden: Sequence[str], seed: int) -> Blind:
    """How many answers to the same rows are right, `shown` with their images and `hidden` with the grey picture.

    Raises:
        ValueError: no rows, or another number of answers.
    """
    pairs = [
        (right(row, with_it), right(row, without)) for row, with_it, without in zip(rows, shown, hidden, strict=True)
    ]
    values = np.array(pairs, np.float64).reshape(len(rows), 2)
    columns = np.column_stack([values, values[:, 0] - values[:, 1]])
    images = [row.image or row.id for row in rows]
    return Blind(len(rows), len(set(images)), len({row.category for row in rows}), *intervals(columns, images, seed))


def warn(name: str, blind: Blind | NotAsked | None) -> None:
    """Log a warning of the adapter `name` where the control does not show that it looks."""
    if isinstance(blind, Blind) and not blind.looks:
        log.warning(
            "%s: %s; of %d rows %.1f%% are right with their images, %.1f%% with a grey picture instead",
            *(name, blind.verdict, blind.rows, 100 * blind.shown.mean, 100 * blind.hidden.mean),
        )
