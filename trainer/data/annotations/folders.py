"""Pictures in a folder for each class: the folder's name is what the picture shows."""

from collections.abc import Iterator, Sequence

from trainer.config.data import AnnotationOptions
from trainer.data import files
from trainer.data.annotations.pictures import PICTURES
from trainer.data.annotations.scene import Scene
from trainer.data.write import Report
from trainer.errors import DataError


class Folders:
    """The folder of pictures, as `data annotations` is given it by --source."""

    def __init__(self, options: AnnotationOptions, report: Report) -> None:
        """List the pictures.

        Raises:
            DataError: the folder lies outside of --images, cannot be listed, or has fewer than two folders with
                pictures.
        """
        # A picture's class is the last folder it lies in, so that train/cat and test/cat are the same.
        source = options.source.rstrip("/")
        folder = options.images.rstrip("/")
        if source != folder and not source.startswith(f"{folder}/"):
            raise DataError([f"--source {source}: lies outside of --images {folder}: name a folder in it"])
        self._pictures = [files.relative(files.join(source, name), folder) for name in files.listed(source, PICTURES)]
        self._classes = sorted({_class(name) for name in self._pictures} - {""})
        if len(self._classes) < 2:
            raise DataError([f"{source}: has no two folders with pictures in them, one for each class"])
        for name in self._pictures:
            if not _class(name):
                report.note("pictures left out, they lie in no class's folder", name)

    @property
    def names(self) -> Sequence[str]:
        """The classes: the names of the folders that hold images."""
        return self._classes

    @property
    def scenes(self) -> Iterator[Scene]:
        """Each image with its class, in order of file names."""
        return (Scene(name, label=_class(name)) for name in self._pictures if _class(name))


def _class(name: str) -> str:
    return name.rpartition("/")[0].rpartition("/")[2]
