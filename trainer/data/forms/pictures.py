"""Pictures that lie in a set itself, written as files named by SHA-256 of their bytes, so that each is written once."""

import hashlib

from trainer.data import files

# First bytes of the kinds of image files, and their endings.
_KINDS = (
    (b"\x89PNG", "png"),
    (b"\xff\xd8", "jpg"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tif"),
    (b"MM\0*", "tif"),
)


class Pictures:
    """The folder they are written to."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._written: set[str] = set()

    def keep(self, data: bytes) -> str:
        """The path or URL of the file that holds these bytes.

        Raises:
            DataError: it cannot be written.
        """
        name = f"{hashlib.sha256(data).hexdigest()[:20]}.{_ending(data)}"
        url = files.join(self._folder, name)
        if name not in self._written:
            files.write(url, data)
            self._written.add(name)
        return url


def _ending(data: bytes) -> str:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((ending for magic, ending in _KINDS if data.startswith(magic)), "png")
