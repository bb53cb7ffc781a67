"""Rows -> training and held-out rows that share no image, whatever its name, and no question without an image."""

import hashlib
import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from trainer.config.data import DISTANCE, TOLERANCE, SplitOptions
from trainer.data import files, progress
from trainer.data.copies import Copies
from trainer.data.forms.reading import AUTO, Reading
from trainer.data.image_facts import facts_of_all
from trainer.data.index import image_digests
from trainer.data.row import Row
from trainer.data.rows import rows_of
from trainer.data.stream import Chosen, Joined, RowFile
from trainer.data.write import Report, writing
from trainer.errors import DataError, OptionError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sides:
    """Rows to train on and rows held out, in their files; `digests` has the SHA-256 of every image, in hex, by name."""

    train: Sequence[Row]
    held_out: Sequence[Row]
    digests: Mapping[str, str]


def read_sides(
    data: Sequence[tuple[str, str]],
    eval_data: str | None,
    holdout: float,
    seed: int,
    index: Path | None,
    how: Reading = AUTO,
) -> Sides:
    """Training and held-out rows: of two files, or of one split by `holdout` and `seed`.

    `data` are files of rows, each with its image folder; the names in `eval_data` are relative to the first of these.
    The digests of images are kept in the folder `index`. Held-out rows about an image that is trained on as well, or
    about the same text, are left out with a warning.

    Raises:
        DataError: faulty rows, or images that cannot be read.
        OptionError: one side would be empty.
    """
    rows = read_sets(data, how)
    if eval_data is None:
        digests = image_digests(rows, index)
        held = np.fromiter((held_out(row, holdout, seed, digests) for row in rows), dtype=bool, count=len(rows))
        if held.all() or not held.any():
            raise _one_sided(holdout, len(rows))
        return Sides(Chosen(rows, np.flatnonzero(~held)), Chosen(rows, np.flatnonzero(held)), digests)
    asked = read_sets([(eval_data, data[0][1])], how)
    digests = image_digests(chain(rows, asked), index)
    return Sides(rows, _not_trained_on(asked, rows, digests, eval_data), digests)


def read_sets(data: Sequence[tuple[str, str]], how: Reading) -> Sequence[Row]:
    """The rows of all files, each with its image folder, read from them when they are asked for; memory has none.

    How each was read is logged.

    Raises:
        DataError: faulty rows, or images are given and no row has one.
    """
    try:
        parts = [RowFile(file, images, how) for file, images in data]
    except DataError as error:
        folders = {images for _, images in data}
        if len(data) == 1 or len(folders) > 1:
            raise
        told = (
            f"--images {folders.pop()}: is where the images of all {len(data)} sets are looked for; where a set's lie"
            " elsewhere, give --images once for each, in the order of --data"
        )
        raise DataError([told, *error.faults]) from error
    for part in parts:
        log.info("%s: %s", part.source.file, part.source.summary())
    blind = [fault for part in parts if (fault := part.source.blind())]
    if len(blind) == len(parts):
        raise DataError([f"{part.source.file}: {fault}" for part, fault in zip(parts, blind, strict=True)])
    return Joined(parts)


def _one_sided(holdout: float, rows: int) -> OptionError:
    return OptionError(f"--holdout {holdout} of {rows} rows leaves one side empty: give --eval-data instead")


def sample(rows: Sequence[Row], limit: int, seed: int) -> list[Row]:
    """Rows with about `limit` questions in all, of each category its share, drawn by `seed`, in their order."""
    by_category: dict[str, list[int]] = {}
    questions: list[int] = []
    for place, row in enumerate(rows):
        by_category.setdefault(row.category, []).append(place)
        questions.append(len(row.exchanges))
    if (every := sum(questions)) <= limit:
        return list(rows)
    rng = random.Random(seed)
    chosen: list[int] = []
    for places in by_category.values():
        left = limit * sum(questions[place] for place in places) / every
        for place in rng.sample(places, len(places)):
            chosen.append(place)
            left -= questions[place]
            if left < 0.5:
                break
    return [rows[place] for place in sorted(chosen)]


def sample_of_both(rows: Sequence[Row], limit: int, seed: int) -> list[Row]:
    """`sample` of the rows with an image, then of those of text, each their share and a quarter of `limit` at least."""
    textual = np.fromiter((row.image is None for row in rows), dtype=bool, count=len(rows))
    least = max(1, limit // 4)
    of_text = min(max(round(limit * textual.mean()), least), limit - least, int(textual.sum()))
    parts = ((~textual, limit - of_text), (textual, of_text))
    return [row for which, most in parts for row in sample(Chosen(rows, np.flatnonzero(which)), most, seed)]


def held_out(row: Row, holdout: float, seed: int, digests: Mapping[str, str]) -> bool:
    """Whether a row is held out: where SHA-256 of seed and image, as a share of its range, is below `holdout`.

    So all rows about the same image, under whatever names, are on one side, in every set with this seed. Of a row
    without an image its first question counts.
    """
    key = f"{seed}:{_content(row, digests)}"
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "backslashreplace")).digest()[:8]) / 2**64 < holdout


def _content(row: Row, digests: Mapping[str, str]) -> str:
    """What a row is about: its image's bytes, or the question of a text row, whatever its spaces and case."""
    return digests[row.image] if row.image else " ".join(row.exchanges[0][0].lower().split())


def _not_trained_on(asked: Sequence[Row], trained: Iterable[Row], digests: Mapping[str, str], file: str) -> list[Row]:
    """Those of the rows `asked`, of `file`, that are about nothing that is trained on."""
    first: dict[str, str] = {}
    for row in trained:
        first.setdefault(_content(row, digests), row.place or row.id)
    known = [row for row in asked if _content(row, digests) in first]
    if len(known) == len(asked):
        raise OptionError(
            f"--eval-data {file}: every row is about an image or a text that --data has too, so a score on them would"
            " say nothing: hold out others, or leave --eval-data out and let --holdout part the images"
        )
    if known:
        twin = first[_content(known[0], digests)]
        log.warning(
            "--eval-data %s: %d of %d rows are left out, their images or texts are trained on: %s is %s of --data",
            file,
            len(known),
            len(asked),
            known[0].place or known[0].id,
            twin,
        )
    return [row for row in asked if _content(row, digests) not in first]


def split_file(options: SplitOptions) -> str:
    """`data split`: write both sides, row by row.

    Raises:
        DataError: faulty rows, or a file that cannot be read or written.
        OptionError: one side would be empty, or both are to be the same file.
    """
    if options.output == options.held_out:
        raise OptionError(f"--held-out {options.held_out}: is --output too; give it another name")
    larger, smaller = Report(), Report()
    digests = image_digests(rows_of(options), options.index)
    with (
        writing(options.output, options.images, larger) as train,
        writing(options.held_out, options.images, smaller) as test,
    ):
        for row in progress.with_progress(rows_of(options), "split"):
            (test if held_out(row, options.holdout, options.seed, digests) else train).write(row)
        if not larger.kept or not smaller.kept:
            rows = larger.kept + smaller.kept
            raise OptionError(f"--holdout {options.holdout} of {rows} rows leaves one side empty: choose another")
    told = f"{options.output}: {larger}\n{options.held_out}: {smaller}"
    return f"{told}\n{near}" if options.look and (near := _near(options, digests)) else told


def _near(options: SplitOptions, digests: Mapping[str, str]) -> str | None:
    """A sentence that warns of held-out images that look like images of the larger side; None: there are none."""
    sides: tuple[dict[str, None], dict[str, None]] = ({}, {})
    for row in rows_of(options):
        if row.image:
            sides[held_out(row, options.holdout, options.seed, digests)][row.image] = None
    copies = Copies(DISTANCE, TOLERANCE)
    for image, facts in facts_of_all(sides[False], options.index):
        if not facts.fault:
            copies.first(image, facts)
    judged = ((image, facts) for image, facts in facts_of_all(sides[True], options.index) if not facts.fault)
    near = [(image, twin) for image, facts in judged if (twin := copies.find(facts))]
    if not near:
        return None
    image, twin = (files.relative(name, options.images) for name in near[0])
    return (
        f"{len(near)} of {len(sides[True])} held-out images look like images of the other side, such as {image} like"
        f" {twin}: run `data dedupe` before `data split`, which gives copies one name, so that no split parts them"
    )
