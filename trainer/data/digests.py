"""Rows and images by their content: what a manifest names its data by, and what must not be held out as well."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

from trainer.data.files import read
from trainer.data.rows import Row

# Where a run and a version list the images they were trained on.
IMAGES = "images.txt"
# Of an image's digest, in a list of thousands: enough to tell it from any other.
_SHORT = 10


def image_digests(images: Iterable[str | None]) -> dict[str, str]:
    """SHA-256 of each image file's bytes, in hex, by its path or URL; each is read once.

    Raises:
        DataError: one cannot be read.
    """
    return {image: hashlib.sha256(read(image)).hexdigest() for image in dict.fromkeys(images) if image}


def data_digest(rows: Sequence[Row], images: Mapping[str, str]) -> str:
    """SHA-256 over the rows and their images' digests, in order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([images[row.image] if row.image else None, row.question, row.answer]).encode())
    return digest.hexdigest()


def image_list(digests: Iterable[str]) -> str:
    """The digests shortened and sorted, a line each."""
    return "".join(f"{short}\n" for short in sorted({digest[:_SHORT] for digest in digests}))


def listed(images: Iterable[str | None], known: str) -> tuple[str, ...]:
    """Those of `images` whose content the list `known` has; none is read for an empty list."""
    shorts = set(known.split())
    return (
        tuple(image for image, digest in image_digests(images).items() if digest[:_SHORT] in shorts) if shorts else ()
    )
