"""Digests of rows and images: a manifest names its data by one, a version lists the images that it was trained on."""

import hashlib
import json
from collections.abc import Iterable, Mapping

from trainer.data.row import Row

# Where a run and a version list the images they were trained on.
IMAGES = "images.txt"
# Hexadecimal digits of an image's digest that are listed: 40 bits, by which another image is taken for one of a list of
# 100,000 with a chance of one in ten million.
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
    """The text of an image list: SHA-256 digests in hex, shortened and sorted, a line each."""
    return "".join(f"{short}\n" for short in sorted({digest[:_SHORT] for digest in digests}))


def listed(images: Mapping[str, str], known: str) -> tuple[str, ...]:
    """The names of those of `images`, SHA-256 in hex by name, that are in `known`, the text of an image list."""
    shorts = set(known.split())
    return tuple(image for image, digest in images.items() if digest[:_SHORT] in shorts)
