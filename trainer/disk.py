"""Checks at a command's start that it can write where it will, so that no work is lost to a full or read-only disk."""

import os
import shutil
from pathlib import Path
from tempfile import TemporaryFile

from trainer.errors import DISK, OptionError

# With less room than this the disk counts as full.
LEAST_BYTES = 4 << 20


def check_folder(option: str, folder: Path, bytes_needed: int = LEAST_BYTES) -> None:
    """Write a block of up to 4 MiB to `folder`, or to where it will be made, and take it away again.

    Raises:
        OptionError: it cannot be written, or has less space than `bytes_needed`.
    """
    try:
        there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
        with TemporaryFile(dir=there) as file:
            file.write(b"\0" * min(bytes_needed, LEAST_BYTES))
            file.flush()
            os.fsync(file.fileno())
        free = shutil.disk_usage(there).free
    except OSError as error:
        why = DISK.get(error.errno or 0, error.strerror or str(error))
        raise OptionError(f"{option} {folder}: {why}: name another place, or make room there") from error
    if free < bytes_needed:
        raise OptionError(
            f"{option} {folder}: {bytes_needed / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB are free:"
            " make room, or name another place"
        )


def check_file(option: str, url: str) -> None:
    """Check that a file can be written at a local path; a URL, with "://" in it, is not checked.

    Raises:
        OptionError: it is a directory, cannot be written, or there is less room than LEAST_BYTES.
    """
    if "://" in url:
        return
    if Path(url).is_dir():
        raise OptionError(f"{option} {url}: is a directory: name a file in it")
    check_folder(option, Path(url).parent)
