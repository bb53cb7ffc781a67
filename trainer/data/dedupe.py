"""`data dedupe`: of images that look the same each question is kept once.

copies.py finds which look the same. With --model copies that were cropped, mirrored or recoloured are found too: images
whose embeddings have a cosine of --similarity or more.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from trainer.config.data import DedupeOptions
from trainer.data import files, progress
from trainer.data.copies import Copies
from trainer.data.image_facts import facts_of_all
from trainer.data.row import Row
from trainer.data.rows import rows_of
from trainer.data.write import Report, writing
from trainer.errors import DataError

# Nearest pictures that each is compared with. Of more copies of one picture each still leads to an earlier one.
_NEAREST = 16


def dedupe(options: DedupeOptions) -> str:
    """Write each question once among images that look alike.

    Raises:
        DataError: faulty rows, a file that cannot be read or written, or an image that does not decode; `data check`
            and `data filter` find them all.
        OptionError: a model that is neither a CLIP nor a LLaVA, or cannot be loaded.
    """
    report = Report()
    images = list(dict.fromkeys(row.image for row in rows_of(options) if row.image))
    first = _by_looks(images, options)
    told = _by_embeddings(first, options) if options.model else []
    asked: dict[bytes, bytes] = {}
    with writing(options.output, options.images, report) as writer:
        for row in progress.with_progress(rows_of(options), "dedupe"):
            image = first[row.image] if row.image else None
            key, answer = _digests(row, image)
            if key in asked:
                same = "the same" if asked[key] == answer else "otherwise"
                report.note(f"dropped, asked before and answered {same}", row.id)
                continue
            asked[key] = answer
            if image != row.image:
                report.note("kept, with the name of an image that looks the same", row.id)
            writer.write(replace(row, image=image))
    return "\n".join([str(report), *told])


def _by_looks(images: Iterable[str], options: DedupeOptions) -> dict[str, str]:
    """By each image the first of `images` that looks like it, which may be itself."""
    copies = Copies(options.distance, options.tolerance)
    first: dict[str, str] = {}
    for image, facts in facts_of_all(images, options.index):
        if facts.fault:
            raise DataError([f"{files.relative(image, options.images)}: {facts.fault}"])
        first[image] = copies.first(image, facts)
    return first


def _by_embeddings(first: dict[str, str], options: DedupeOptions) -> list[str]:
    """Replace names in `first` by those of earlier images that the model sees as nearly the same.

    Returns a line on how many these are and how near pictures of the set are to each other.
    """
    from trainer.data.curation.embedding import Embedder
    from trainer.data.curation.neighbours import Space

    assert options.model
    kept = list(dict.fromkeys(first.values()))
    if len(kept) < 2:
        return []
    space = Space(Embedder(options.model).of_files(kept, options.index))
    cosines, places = space.nearest(_NEAREST)
    names = space.names
    moved: dict[str, str] = {}
    for place, name in enumerate(names):
        near = [int(other) for other in places[place][cosines[place] >= options.similarity] if other < place]
        if near:
            earlier = names[min(near)]
            moved[name] = moved.get(earlier, earlier)
    for image, name in first.items():
        first[image] = moved.get(name, name)
    nearest = np.quantile(cosines[:, 0], [0.5, 0.9, 0.99])
    return [
        f"{len(moved)} images are within --similarity {options.similarity:g} of an earlier one; the similarity of an"
        f" image to its nearest is {nearest[0]:.3f} in the middle, {nearest[1]:.3f} at 90% and {nearest[2]:.3f} at 99%"
    ]


def _digests(row: Row, image: str | None) -> tuple[bytes, bytes]:
    """16 bytes each for what is asked of which image, and for the answer: the texts of 600,000 rows are too many."""
    said = [plain(text) for exchange in row.exchanges for text in exchange]
    pair = [said[-1], plain(row.rejected)] if row.rejected is not None else []  # one question may have several pairs
    return _short("\0".join([image or "", *said[:-1], *pair])), _short(said[-1])


def _short(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=16).digest()


def plain(text: str) -> str:
    """A text in lower case, runs of space made one, without punctuation at its ends.

    Marks within stay: "is a < b?" is not "is a > b?".
    """
    return re.sub(r"\s+", " ", text.lower()).strip(" .,;:!?\"'")
