"""Tensors kept on disk by digest, many to a safetensors file, and mapped from there; knows nothing of images.

A file's name is the digest of its bytes. A ledger says at which size and time each was found to be whole; one that has
changed since is read and compared with its name, and one that is not whole is removed, so that its tensors are missing
and are made again.
"""

import hashlib
import json
import logging
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from trainer.errors import OptionError

log = logging.getLogger(__name__)
# Bytes of a shard: what a kill loses at most, and what is held in memory while it is filled.
SIZE = 128 * 2**20
# The ledger's file, and how many hexadecimal digits of its digest a shard is named by.
_LEDGER, _NAME = "ledger.json", 32


class Shards:
    """A folder of shards. Several processes may write into it; each sees what was there at its last `refresh`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, str] = {}
        self._open: dict[tuple[int, str], Any] = {}
        # Sizes and times of shards that were written just now.
        self.fresh: dict[str, list[int]] = {}

    def refresh(self, check: bool = True) -> None:
        """List the shards that are there and what they hold; with `check`, those that are not whole are removed."""
        ledger = self._ledger() | self.fresh
        whole: dict[str, list[int]] = {}
        self._files = {}
        for file in sorted(self._folder.glob("*.safetensors")):
            found = file.stat()
            stamp = [found.st_size, found.st_mtime_ns]
            if check and ledger.get(file.name) != stamp and not _whole(file):
                log.warning("%s is damaged: removed, and made again", file)
                file.unlink()
                continue
            whole[file.name] = stamp
            with safe_open(file, "pt") as shard:
                self._files.update(dict.fromkeys(shard.keys(), file.name))
        if check and whole != self._ledger():
            _replace(self._folder / _LEDGER, json.dumps(whole).encode())

    def __contains__(self, key: str) -> bool:
        return key in self._files

    def __getitem__(self, key: str) -> torch.Tensor:
        name = self._files[key]
        place = (os.getpid(), name)  # a handle is not shared by processes that fork
        if place not in self._open:
            self._open[place] = safe_open(self._folder / name, "pt")
        tensor: torch.Tensor = self._open[place].get_tensor(key)
        return tensor

    def write(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Keep `tensors` in one file.

        Raises:
            OptionError: the disk is full or cannot be written.
        """
        data = save({key: tensor.contiguous() for key, tensor in tensors.items()})
        file = self._folder / f"{hashlib.sha256(data).hexdigest()[:_NAME]}.safetensors"
        _replace(file, data)
        self.fresh[file.name] = [len(data), file.stat().st_mtime_ns]

    def check_room(self, size: int, budget: int | None) -> None:
        """Check that `size` bytes more have room, on the disk and within the `budget` of bytes of the whole folder.

        Raises:
            OptionError: they have not; the message has the numbers and the ways out.
        """
        ways = "name a folder on a larger disk by --feature-cache, or have them computed in each step by"
        self._folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self._folder).free
        if size > free * 0.98:
            raise OptionError(
                f"--feature-cache: image features take {_gb(size)} more and {self._folder} has {_gb(free)} free: "
                f"{ways} --no-feature-cache"
            )
        held = sum(file.stat().st_size for file in self._folder.glob("*.safetensors"))
        if budget is not None and size + held > budget:
            raise OptionError(
                f"--feature-cache-gb: image features come to {_gb(size + held)}, over {_gb(budget)}: allow it, {ways} "
                "--no-feature-cache"
            )

    def _ledger(self) -> dict[str, list[int]]:
        try:
            found: dict[str, list[int]] = json.loads((self._folder / _LEDGER).read_bytes())
        except (OSError, ValueError):
            return {}
        return found


def filled(tensors: Iterator[tuple[str, torch.Tensor]], size: int = SIZE) -> Iterator[dict[str, torch.Tensor]]:
    """Tensors one by one -> as many as make a shard."""
    shard: dict[str, torch.Tensor] = {}
    for key, tensor in tensors:
        shard[key] = tensor
        if sum(each.nbytes for each in shard.values()) >= size:
            yield shard
            shard = {}
    if shard:
        yield shard


def _whole(file: Path) -> bool:
    with file.open("rb") as content:
        if not hashlib.file_digest(content, "sha256").hexdigest().startswith(file.stem):
            return False
    try:
        with safe_open(file, "pt"):
            return True
    except SafetensorError:
        return False


def _replace(file: Path, data: bytes) -> None:
    """Write a file under its name once it is whole; of several processes that write it the last one's stays."""
    part = file.with_suffix(f".{os.getpid()}-{threading.get_ident()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        part.replace(file)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OptionError(f"--feature-cache: {file} cannot be written: {error.strerror or error}") from error


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
