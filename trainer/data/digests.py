"""Rows and images by their content: what a manifest names its data by, and what must not be held out as well."""

import hashlib
import json
from collections.abc import Iterable, Mapping

from trainer.data.row import Row

# Where a run and a version list the images they were trained on.
IMAGES = "images.txt"
# Of an image's digest, in a list of thousands: enough to tell it from any other.
_SHORT = 10


def data_digest(rows: Iterable[Row], images: Mapping[str, str]) -> str:
    """SHA-256 over the rows and their images' digests (SHA-256 in hex, by image), in order."""
    digest = hashlib.sha256()
    for row in rows:
        said = [text for exchange in row.exchanges for text in exchange]
        said += [row.rejected] if row.rejected is not None else []
        digest.update(json.dumps([images[row.image] if row.image else None, *said]).encode())
    return digest.hexdigest()


def image_list(digests: Iterable[str]) -> str:
    """The digests shortened and sorted, a line each."""
    return "".join(f"{short}\n" for short in sorted({digest[:_SHORT] for digest in digests}))


def listed(images: Mapping[str, str], known: str) -> tuple[str, ...]:
    """Those of `images`, whose digests are given, that the list `known` has."""
    shorts = set(known.split())
    return tuple(image for image, digest in images.items() if digest[:_SHORT] in shorts)
