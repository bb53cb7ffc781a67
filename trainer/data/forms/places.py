"""Where a public set's pictures lie, told by the first: sets name them by numbers, and people lay them out in ways."""

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
    """The pattern by which the picture of `facts` lies in a folder; the first where it lies by none.

    Raises:
        DataError: the folder's store cannot be asked.
    """
    return next((each for each in patterns if files.is_file(files.join(folder, each.format(**facts)))), patterns[0])
