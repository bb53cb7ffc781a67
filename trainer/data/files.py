"""Bytes and lines at a path or any fsspec URL (s3://, gs://, memory://…); knows nothing of rows or pixels."""

import errno
import hashlib
import posixpath
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from trainer.errors import DataError, OptionError

# A plain path may hold "::" or "://" further in; only this at the front makes it a URL.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(://|::)")

_NO_SUCH_NAME = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)


def join(folder: str, name: str) -> str:
    """`name` under `folder`, in one spelling: "./a.png" and "a.png" are the same file."""
    return f"{folder.rstrip('/')}/{posixpath.normpath(name)}"


def relative(url: str, folder: str) -> str:
    """The name that `join` would need to find `url` under `folder`."""
    return url.removeprefix(folder.rstrip("/") + "/")


def stem(url: str) -> str:
    """A file's name without folder and ending."""
    return posixpath.splitext(posixpath.basename(url))[0]


def is_file(url: str) -> bool:
    """Whether a file is there.

    Raises:
        OptionError: no file system goes by the URL's protocol.
        DataError: its store cannot be asked.
    """
    with _naming(url):
        fs, path = _locate(url)
        return _is_local_file(path) if isinstance(fs, LocalFileSystem) else bool(fs.isfile(path))


def _is_local_file(path: str) -> bool:
    """As os.path.isfile, which however says no as well where the user may not look, or a disk fails."""
    try:
        return stat.S_ISREG(Path(path).stat().st_mode)
    except ValueError:  # a name with a zero byte
        return False
    except OSError as error:
        if error.errno in _NO_SUCH_NAME:
            return False
        raise


def listed(folder: str, endings: tuple[str, ...]) -> list[str]:
    """The names, relative to `folder` and sorted, of the files below it that end in one of `endings`, in either case.

    Raises:
        DataError: the folder is not there, or cannot be listed.
    """
    with _naming(folder, "listed"):
        fs, path = _locate(folder)
        if not fs.isdir(path):
            raise DataError([f"{folder}: is not a folder"])
        found = fs.find(path)
        return sorted(relative(name, path) for name in found if name.lower().endswith(endings))


def is_folder(url: str) -> bool:
    """Whether a folder is there; a store without folders has those that something lies in.

    Raises:
        DataError: its store cannot be asked.
    """
    with _naming(url):
        fs, path = _locate(url)
        return bool(fs.isdir(path))


def names(url: str) -> list[str]:
    """The names of what lies in a folder, sorted; nothing where there is no such folder.

    Raises:
        DataError: its store cannot be asked.
    """
    with _naming(url):
        fs, path = _locate(url)
        if not fs.isdir(path):
            return []
        return sorted(posixpath.basename(each.rstrip("/")) for each in fs.ls(path, detail=False))


def read(url: str) -> bytes:
    """All bytes of a file.

    Raises:
        DataError: it cannot be read.
    """
    with _naming(url):
        fs, path = _locate(url)
        data: bytes = fs.cat_file(path)
        return data


def sha256(url: str) -> str:
    """SHA-256 over a file's bytes, in hex; memory holds a megabyte of it.

    Raises:
        DataError: it cannot be read.
    """
    digest = hashlib.sha256()
    with _naming(url):
        fs, path = _locate(url)
        with fs.open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def stamp(url: str) -> str | None:
    """What changes when the file does: its size and time of change, or what its store says of it; None: not known."""
    fs, path = _locate(url)
    try:
        if isinstance(fs, LocalFileSystem):
            found = Path(path).stat()
            return f"{found.st_size}-{found.st_mtime_ns}-{found.st_ctime_ns}-{found.st_ino}"
        facts = fs.info(path)
    except Exception:  # as `_naming`; whoever reads the file says what is wrong with it
        return None
    known = {name: facts[name] for name in ("ETag", "etag", "md5Hash", "LastModified", "mtime") if facts.get(name)}
    return f"{facts.get('size')}-{sorted(known.items())}" if known else None


@contextmanager
def reading(url: str) -> Iterator[IO[bytes]]:
    """A file open for reading.

    Raises:
        DataError: it cannot be read.
    """
    with _naming(url):
        fs, path = _locate(url)
        with fs.open(path, "rb") as file:
            yield file


def lines(url: str) -> Iterator[bytes]:
    """A file's lines, one by one, without their ends; memory holds one.

    Raises:
        DataError: the file cannot be read.
    """
    with reading(url) as file:
        for line in file:
            yield line.rstrip(b"\r\n")


def local(url: str) -> Path | None:
    """The path that a plain path means on this machine; None for every URL."""
    return None if _URL.match(url) else Path(LocalFileSystem._strip_protocol(url))


@contextmanager
def writing(url: str) -> Iterator[IO[bytes]]:
    """A file that appears under its name only when the block ends well; folders are made.

    Raises:
        DataError: it cannot be written.
    """
    fs, path = _locate(url)
    part = f"{path}.part"
    with _naming(url, "written"):
        fs.makedirs(posixpath.dirname(path), exist_ok=True)
        file = fs.open(part, "wb")
    try:
        with _writing(url), file:
            yield file
        with _naming(url, "written"):
            fs.mv(part, path)
    except BaseException:
        with suppress(Exception):
            fs.rm_file(part)
        raise


@contextmanager
def _writing(url: str) -> Iterator[None]:
    """A disk that is full becomes one line with the URL; what else a caller's block raises is its own."""
    try:
        yield
    except OSError as error:
        raise DataError([f"{url}: cannot be written: {error}"]) from error


def write(url: str, data: bytes) -> None:
    """Make or replace a file.

    Raises:
        DataError: it cannot be written.
    """
    with writing(url) as file:
        file.write(data)


def _locate(url: str) -> tuple[Any, str]:
    if not _URL.match(url):
        fs = LocalFileSystem()
        return fs, fs._strip_protocol(url)
    try:
        fs, path = url_to_fs(url)
    except (ValueError, ImportError) as error:  # an unknown protocol; one whose package is missing, which it names
        raise OptionError(f"{url}: {error}") from error
    return fs, path


@contextmanager
def _naming(url: str, what: str = "read") -> Iterator[None]:
    """Whatever a file system raises becomes one line with the URL; clouds' clients share no error class."""
    try:
        yield
    except (DataError, OptionError, GeneratorExit):
        raise
    except Exception as error:
        raise DataError([f"{url}: cannot be {what}: {type(error).__name__}: {error}"]) from error
