"""The file that a row's image is, under the folder of images: by its name, or by the one file the name can mean."""

import posixpath
import re
import unicodedata
from collections.abc import Iterator
from urllib.parse import unquote

from trainer.data import files
from trainer.data.faults import Notes
from trainer.errors import DataError

_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
# Where Label Studio puts uploaded files, with up to eight hexadecimal digits before the name.
_UPLOAD = re.compile(r"^/?data/upload/(?:\d+/)?(?:[0-9a-f]{4,8}-)?(?P<name>[^/]+)$")


class Images:
    """Looks up each name once; folders are listed only where a name is not there as it is written."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._known: dict[str, tuple[str, tuple[str, ...]] | None] = {}
        self._listed: dict[str, dict[str, list[str]]] = {}
        self._there: bool | None = None

    def find(self, name: str, notes: Notes) -> str | None:
        """The path or URL of the image; what is not found, or is no name of a file, is a fault.

        Raises:
            DataError: the folder of images is not there, or its store cannot be asked.
        """
        if not self._folder:
            notes.fault("the row has an image {}: name the folder it lies in by --images", repr(name))
            return None
        if re.match(r"https?://|s3://|gs://", name):
            notes.fault(f"image {{}} is a URL and not a file in {self._folder}: download it there first", repr(name))
            return None
        if name not in self._known:
            self._known[name] = self._resolve(name)
        found = self._known[name]
        if found is None:
            self._missing(name, notes)
            return None
        url, rules = found
        for rule in rules:
            notes.mend(rule)
        return url

    def _missing(self, name: str, notes: Notes) -> None:
        if posixpath.isabs(name) or posixpath.normpath(name).split("/")[0] == "..":
            notes.fault(f"image {{}} lies outside of {self._folder}: name it relative to that folder", repr(name))
            return
        if self._there is None:
            self._there = files.is_folder(self._folder)
        if not self._there:
            raise DataError([f"--images {self._folder}: is no folder, and rows have images, {name!r} first"])
        notes.fault(f"image {{}} is not a file in {self._folder} (`data filter` leaves such rows out)", repr(name))

    def _resolve(self, name: str) -> tuple[str, tuple[str, ...]] | None:
        """The file of a name and the rules by which it was found; None: there is none, or several could be meant."""
        rules: list[str] = []
        for candidate, rule in self._spellings(name):
            if rule:
                rules.append(rule)
            if posixpath.isabs(candidate) or posixpath.normpath(candidate).split("/")[0] == "..":
                continue
            if files.is_file(url := files.join(self._folder, candidate)):
                return url, tuple(rules)
        return self._by_listing(candidate, rules)

    def _spellings(self, name: str) -> Iterator[tuple[str, str]]:
        """The name, then after each rule that changes it; each goes on from the one before."""
        yield name, ""
        rules = (
            ("paths: a backslash where a slash belongs", lambda path: path.replace("\\", "/")),
            ("paths: spaces around them", str.strip),
            ("paths: percent signs of a URL", unquote),
            ("paths: Label Studio's upload folder before the file's name", _uploaded),
            ("paths: had the folder twice", self._without_folder),
            ("paths: a slash before them", lambda path: path.lstrip("/")),
        )
        for rule, change in rules:
            changed = change(name)
            if changed != name:
                name = changed
                yield name, rule

    def _without_folder(self, path: str) -> str:
        """What is behind the folder, of a path that is absolute or repeats the folder's name."""
        folder = self._folder.rstrip("/")
        if path.startswith(f"{folder}/"):
            return path[len(folder) + 1 :]
        last = posixpath.basename(folder)
        parts = path.split("/")
        if not path.startswith("/"):
            return "/".join(parts[1:]) if last and parts[0] == last and len(parts) > 1 else path
        return "/".join(parts[parts.index(last) + 1 :]) if last in parts[1:-1] else path

    def _by_listing(self, name: str, rules: list[str]) -> tuple[str, tuple[str, ...]] | None:
        """The one file of the name's folder that differs in case, accents' form or a missing ending alone."""
        if not name or "\0" in name or posixpath.normpath(name).split("/")[0] == ".." or posixpath.isabs(name):
            return None
        inside, base = posixpath.split(posixpath.normpath(name))
        folder = files.join(self._folder, inside) if inside else self._folder.rstrip("/")
        listed = self._listing(folder)
        same = [file for file in listed.get(_alike(base), []) if files.is_file(files.join(folder, file))]
        if len(same) == 1:
            how = "letters in another case" if same[0].casefold() == base.casefold() else "accents in another form"
            return files.join(folder, same[0]), (*rules, f"paths: {how}")
        if same:
            return None  # several, any of which could be meant
        ends = [file for ending in _ENDINGS for file in listed.get(_alike(base + ending), [])]
        if len(ends) == 1:
            return files.join(folder, ends[0]), (*rules, "paths: without the file's ending")
        return None

    def _listing(self, folder: str) -> dict[str, list[str]]:
        if folder not in self._listed:
            found: dict[str, list[str]] = {}
            for name in files.names(folder):
                found.setdefault(_alike(name), []).append(name)
            self._listed[folder] = found
        return self._listed[folder]


def _alike(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _uploaded(path: str) -> str:
    found = _UPLOAD.match(path)
    return found["name"] if found else path
