"""YOLO's label files: a line "class x y width height" a box, as fractions, or "class x1 y1 x2 y2 …" an outline.

Labels lie where YOLO looks for them: beside the picture, or in `labels` where the picture's path says `images`. A
picture without a label file shows nothing of the classes, which is YOLO's rule too.
"""

import posixpath
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from trainer.config.data import AnnotationOptions
from trainer.data import files
from trainer.data.annotations.pictures import PICTURES
from trainer.data.annotations.scene import Scene, Thing, box_of
from trainer.data.write import Report
from trainer.errors import DataError


class Yolo:
    """A folder of pictures and the file of class names: data.yaml, or a text file with a name a line."""

    def __init__(self, options: AnnotationOptions, report: Report) -> None:
        """Read the names and list the pictures.

        Raises:
            DataError: a file or folder that cannot be read, names in another form, or no label file at all.
        """
        self._folder, self._report = options.images, report
        self._names = _names(options.source)
        self._pictures = files.listed(self._folder, PICTURES)
        if not any(files.is_file(self._labels(name)) for name in self._pictures):
            where = self._labels(self._pictures[0]) if self._pictures else self._folder
            raise DataError([f"{self._folder}: no picture has a label file, such as {where}"])

    @property
    def names(self) -> Sequence[str]:
        """The names of the classes; a label file's number is an index into them."""
        return self._names

    @property
    def scenes(self) -> Iterator[Scene]:
        """Each image with its boxes, in order of file names."""
        for name in self._pictures:
            labels = self._labels(name)
            lines = files.read(labels).decode("utf-8", "replace").splitlines() if files.is_file(labels) else []
            try:
                yield Scene(name, tuple(self._thing(line) for line in lines if line.strip()))
            except ValueError as error:
                self._report.note("pictures left out, a line of their label file is not YOLO's", f"{name} ({error})")

    def _labels(self, picture: str) -> str:
        folder, _, name = files.join(self._folder, picture).rpartition("/")
        label = posixpath.splitext(name)[0] + ".txt"
        before, found, behind = f"{folder}/".rpartition("/images/")
        aside = f"{before}/labels/{behind}{label}"
        return aside if found and files.is_file(aside) else f"{folder}/{label}"

    def _thing(self, line: str) -> Thing:
        first, *rest = line.split()
        numbers = [float(value) for value in rest]
        kind = int(first)
        if not 0 <= kind < len(self._names):
            raise ValueError(f"class {kind}, and there are {len(self._names)} names")
        if len(numbers) in (4, 5):  # a fifth is a model's confidence
            x, y, width, height = numbers[:4]
            box = box_of(x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        elif len(numbers) >= 6 and len(numbers) % 2 == 0:
            box = box_of(min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2]))
        else:
            raise ValueError(f"{len(numbers)} numbers behind the class")
        return Thing(self._names[kind], box, box is not None)


def _names(file: str) -> list[str]:
    if file.endswith((".yaml", ".yml")):
        try:
            content: Any = yaml.safe_load(files.read(file))
        except yaml.YAMLError as error:
            raise DataError([f"{file}: not YAML: {error}"]) from error
        found = content.get("names") if isinstance(content, dict) else None
        if isinstance(found, dict):
            if set(found) != set(range(len(found))):
                raise DataError([f"{file}: names has numbers other than 0 to {len(found) - 1}"])
            found = [found[number] for number in range(len(found))]
        names = [str(name) for name in found] if isinstance(found, list) else []
    else:
        names = [line.decode("utf-8-sig", "replace").strip() for line in files.lines(file)]
        while names and not names[-1]:
            names.pop()
    if not names or not all(names):
        raise DataError(
            [f"{file}: gives no class names: name YOLO's data.yaml with `names`, or a file with one a line"]
        )
    return names
