"""By which pattern of names a public set's pictures are stored: its rows name them by number, and patterns differ."""

from collections.abc import Mapping, Sequence
from typing import Any

from trainer.data import files

# COCO's pictures, by image id and the set's year, as its own archives lay them out and as others do.
COCO = (
    "{year}/COCO_{year}_{id:012}.jpg",
    "COCO_{year}_{id:012}.jpg",
    "{year}/{id:012}.jpg",
    "{id:012}.jpg",
    "{id}.jpg",
    "{id}.png",
)


def layout(folder: str, patterns: Sequence[str], facts: Mapping[str, Any]) -> str:
    """The first of `patterns` that, filled with the `facts` of a picture, names a file in `folder`; else `patterns[0]`.

    Raises:
        DataError: the folder's store cannot be asked.
    """
    return next((each for each in patterns if files.is_file(files.join(folder, each.format(**facts)))), patterns[0])
