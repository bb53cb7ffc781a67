"""Pascal VOC's folder of XML files, one a picture: filename, size, and objects with name and bndbox in pixels."""

from collections.abc import Iterator, Sequence
from xml.etree import ElementTree

from trainer.config.data import AnnotationOptions
from trainer.data import files
from trainer.data.annotations.scene import Scene, Thing, box_of
from trainer.data.write import Report
from trainer.errors import DataError

# The most bytes of a file that is read as annotations: those of a picture take a few thousand.
_LARGEST = 4_000_000


class Voc:
    """A folder of XML files; they are read twice, first for the classes."""

    def __init__(self, options: AnnotationOptions, report: Report) -> None:
        """List the files and find the classes.

        Raises:
            DataError: the folder cannot be listed, or holds no annotations.
        """
        self._folder = options.source
        self._files = files.listed(self._folder, (".xml",))
        found = {thing.name for scene in self._read(Report()) for thing in scene.things}
        self._report = report
        self._names = sorted(found)
        if not found:
            raise DataError([f"{self._folder}: has no XML file with objects, as Pascal VOC's Annotations folder does"])

    @property
    def names(self) -> Sequence[str]:
        """The classes that any picture has."""
        return self._names

    @property
    def scenes(self) -> Iterator[Scene]:
        """Each image with its boxes, in order of the XML files' names."""
        return self._read(self._report)

    def _read(self, report: Report) -> Iterator[Scene]:
        for name in self._files:
            try:
                yield _scene(files.read(files.join(self._folder, name)))
            except (ElementTree.ParseError, ValueError, DataError) as error:
                report.note("annotation files left out, they are not Pascal VOC's", f"{name} ({error})")


def _scene(data: bytes) -> Scene:
    if len(data) > _LARGEST or b"<!ENTITY" in data or b"<!DOCTYPE" in data:
        raise ValueError("over 4 MB, or with a document type")
    root = ElementTree.fromstring(data)
    image = _text(root, "filename")
    width, height = (int(float(_text(root, f"size/{side}"))) for side in ("width", "height"))
    if width <= 0 or height <= 0:
        raise ValueError("width or height is 0")
    return Scene(image, tuple(_thing(each, width, height) for each in root.iter("object")), (width, height))


def _thing(element: ElementTree.Element, width: int, height: int) -> Thing:
    left, top, right, bottom = (float(_text(element, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
    # VOC counts pixels from 1, the last one included.
    box = box_of((left - 1) / width, (top - 1) / height, right / width, bottom / height)
    difficult = (element.findtext("difficult") or "0").strip() not in ("0", "")
    return Thing(_text(element, "name"), box, not difficult and box is not None)


def _text(element: ElementTree.Element, path: str) -> str:
    text = (element.findtext(path) or "").strip()
    if not text:
        raise ValueError(f"{path} is missing")
    return text
