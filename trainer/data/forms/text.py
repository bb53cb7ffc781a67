"""A file's bytes -> text: unpacked, decoded, its line ends made one; what differs from plain UTF-8 is said."""

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import IO, cast

from service.text import LFS_POINTER
from trainer.data import files
from trainer.errors import DataError

# Bytes of a file's beginning that it is recognised by.
HEAD = 1 << 18
# The most characters of a line or a record: a longer one is no row, and would fill memory.
LONGEST = 1 << 25
_GZIP = b"\x1f\x8b"
# A text is in Latin letters where at most one byte in so many is not ASCII; in Cyrillic or Chinese ones more are.
_LETTERS = 6
# Bytes that cp1252 has no letter for.
_UNDEFINED = frozenset(b"\x81\x8d\x8f\x90\x9d")
# Kinds of files that are no text, by their first bytes, and what to do with them.
_OTHERS = {
    b"PK\x03\x04": "is a ZIP or an Excel file: unpack it, or save the sheet as CSV UTF-8",
    b"BZh": "is packed with bzip2: unpack it",
    b"\xfd7zXZ": "is packed with xz: unpack it",
    b"(\xb5/\xfd": "is packed with Zstandard: unpack it",
    LFS_POINTER: "is a Git LFS pointer and not the data: run `git lfs pull`",
    b"%PDF": "is a PDF",
}


@dataclass(frozen=True, slots=True)
class Text:
    """How a file is read as text. `head` are its first characters, `mended` what is not plain UTF-8 about it.

    `packed`: it is packed with gzip.
    """

    url: str
    encoding: str
    packed: bool
    head: str
    mended: tuple[str, ...]

    @property
    def plain(self) -> bool:
        """Whether its lines may be read by their offsets in the file: UTF-8, not packed, with line feeds."""
        return not self.packed and self.encoding in ("utf-8", "utf-8-sig") and not self.carriage

    @property
    def carriage(self) -> bool:
        """Whether lines end in CR alone, as on old Macs."""
        return "\r" in self.head and "\n" not in self.head

    @contextmanager
    def opened(self) -> Iterator[IO[str]]:
        """The text from its beginning; line ends are line feeds.

        Raises:
            DataError: the file cannot be read, is not text of its encoding, or is packed and cut off.
        """
        with files.reading(self.url) as file:
            raw = cast(IO[bytes], gzip.GzipFile(fileobj=file)) if self.packed else file
            try:
                yield io.TextIOWrapper(raw, encoding=self.encoding, errors="strict", newline=None)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise DataError([f"{self.url}: the gzip file is cut off or broken: {error}"]) from error
            except UnicodeDecodeError as error:
                raise DataError([f"{self.url}: not {self.encoding} text: save the file as UTF-8"]) from error


def detect(url: str) -> Text:
    """How to read a file as text, found out by its first bytes.

    Raises:
        DataError: it cannot be read, or is of a kind that is no text.
    """
    with files.reading(url) as file:
        raw = file.read(HEAD)
    mended: list[str] = []
    packed = raw.startswith(_GZIP)
    if packed:
        mended.append("file: unpacked from gzip")
        raw = _unpacked(url, raw)
    for magic, fault in _OTHERS.items():
        if raw.startswith(magic):
            raise DataError([f"{url}: {fault}"])
    encoding = _encoding(raw)
    if encoding.startswith("utf-16"):
        mended.append("file: UTF-16, as Excel's Unicode text")
    head = raw.decode(encoding, errors="ignore")
    found = Text(url, encoding, packed, head, tuple(mended))
    return replace(found, mended=(*mended, "file: lines end in CR")) if found.carriage else found


def decodable(found: Text) -> Text:
    """The same file; one that is not UTF-8 is read as Windows' Latin letters where its beginning looks like such.

    Raises:
        DataError: it is neither, or cannot be read.
    """
    if found.packed or found.encoding != "utf-8":
        return found
    with files.reading(found.url) as file:
        raw = file.read(HEAD)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(raw)
        return found
    except UnicodeDecodeError as error:
        high = sum(byte >= 0x80 for byte in raw)
        if high * _LETTERS > len(raw) or any(byte in _UNDEFINED for byte in raw):
            raise DataError([f"{found.url}: not UTF-8 text at byte {error.start + 1}: save it as UTF-8"]) from error
    mended = (*found.mended, "file: not UTF-8, read as Windows' Latin letters (cp1252)")
    return replace(found, encoding="cp1252", head=raw.decode("cp1252"), mended=mended)


def _unpacked(url: str, raw: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(raw, HEAD)
    except zlib.error as error:
        raise DataError([f"{url}: the gzip file is broken: {error}"]) from error


def _encoding(raw: bytes) -> str:
    if raw.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if len(raw) >= 4 and raw[1] == 0 and raw[3] == 0 and raw[0] and raw[2]:
        return "utf-16-le"
    if len(raw) >= 4 and raw[0] == 0 and raw[2] == 0 and raw[1] and raw[3]:
        return "utf-16-be"
    return "utf-8"
