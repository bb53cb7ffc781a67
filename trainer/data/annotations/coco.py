"""COCO's annotation file: {"images": […], "annotations": [{image_id, category_id, bbox}], "categories": […]}.

It is read entry by entry, in three passes: the 860,000 boxes of COCO's training set take 30 MB here.
"""

from array import array
from collections.abc import Iterator, Sequence
from typing import Any, TypeGuard

import numpy as np

from trainer.config.data import AnnotationOptions
from trainer.data import files
from trainer.data.annotations.scene import Scene, Thing, box_of
from trainer.data.write import Report
from trainer.errors import DataError


class Coco:
    """One COCO annotation file, its boxes held in arrays."""

    def __init__(self, options: AnnotationOptions, report: Report) -> None:
        """Read the file.

        Raises:
            DataError: it cannot be read, is not JSON, or has no categories, images or boxes.
        """
        self._file = options.source
        self._report = report
        categories = {entry.get("id"): str(entry.get("name") or "") for entry in self._entries("categories")}
        self._categories = [name for name in dict.fromkeys(categories.values()) if name]
        number = {name: place for place, name in enumerate(self._categories)}
        self._numbers = {id_: number[name] for id_, name in categories.items() if name}
        self._images: list[tuple[str, int, int]] = []
        self._places: dict[Any, int] = {}
        self._read_images()
        self._of, self._boxes, self._kinds, self._certain = self._read_boxes()
        for what, found in (("categories", self._categories), ("images", self._images), ("boxes", self._of)):
            if not len(found):
                raise DataError([f"{self._file}: has no {what} as COCO's instances files do: choose another --form"])

    @property
    def names(self) -> Sequence[str]:
        """The names of the categories, in the file's order."""
        return self._categories

    @property
    def scenes(self) -> Iterator[Scene]:
        """The pictures in the file's order, those without a box too: nothing of the set's categories is on them."""
        order = np.argsort(self._of, kind="stable")
        ends = np.searchsorted(self._of[order], np.arange(len(self._images) + 1))
        for place, (name, width, height) in enumerate(self._images):
            chosen = order[ends[place] : ends[place + 1]]
            things = tuple(thing for each in chosen if (thing := self._thing(int(each), width, height)))
            yield Scene(name, things, (width, height))

    def _thing(self, place: int, width: int, height: int) -> Thing | None:
        x, y, w, h = (float(value) for value in self._boxes[place])
        box = box_of(x / width, y / height, (x + w) / width, (y + h) / height)
        if box is None:
            self._report.note("boxes left out, they lie outside of their picture or have no area", str(place))
            # Something is there all the same: its class must not be called absent.
        return Thing(self._categories[self._kinds[place]], box, bool(self._certain[place]) and box is not None)

    def _read_images(self) -> None:
        for entry in self._entries("images"):
            name, size = entry.get("file_name"), (entry.get("width"), entry.get("height"))
            whole = all(isinstance(side, int) and side > 0 for side in size)
            if not isinstance(name, str) or not name or not whole or entry.get("id") in self._places:
                why = "pictures left out, they have no file_name, width or height, or an id that another has"
                self._report.note(why, str(entry.get("id")))
                continue
            self._places[entry.get("id")] = len(self._images)
            self._images.append((name, int(size[0] or 0), int(size[1] or 0)))

    def _read_boxes(self) -> tuple[Any, Any, Any, Any]:
        of, boxes, kinds, certain = array("i"), array("d"), array("i"), array("b")
        for entry in self._entries("annotations"):
            place, kind = self._places.get(entry.get("image_id")), self._numbers.get(entry.get("category_id"))
            box = entry.get("bbox")
            if place is None or kind is None or not _numbers(box):
                why = "boxes left out, their image_id or category_id is unknown, or bbox is not four numbers"
                self._report.note(why, str(entry.get("id")))
                continue
            of.append(place)
            kinds.append(kind)
            boxes.extend(float(value) for value in box)
            certain.append(not entry.get("iscrowd"))
        return (
            np.frombuffer(of, np.int32) if of else np.zeros(0, np.int32),
            np.frombuffer(boxes).reshape(-1, 4) if boxes else np.zeros((0, 4)),
            kinds,
            certain,
        )

    def _entries(self, name: str) -> Iterator[dict[Any, Any]]:
        import ijson

        with files.reading(self._file) as file:
            try:
                for entry in ijson.items(file, f"{name}.item", use_float=True):
                    if isinstance(entry, dict):
                        yield entry
            except (ijson.JSONError, UnicodeDecodeError, ValueError) as error:
                raise DataError([f"{self._file}: not JSON: {error}"]) from error


def _numbers(box: Any) -> TypeGuard[list[float]]:
    return isinstance(box, list) and len(box) == 4 and all(type(value) in (int, float) for value in box)
