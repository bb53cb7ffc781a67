"""How much memory there is: of this machine or container, and of its GPUs; and that what is freed goes back.

Reads files, asks nvidia-smi, and sets an option of the C library's malloc.
"""

import ctypes
import os
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

GIB = 1 << 30
# glibc's name for the size from which a block is mapped on its own (malloc.h), and what we set it to: 1 MiB.
_M_MMAP_THRESHOLD, _MAPPED = -3, 1 << 20


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU's memory in bytes: all of it, and what nobody uses."""

    total: int
    free: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that this process and its children may still take on the host, and each GPU that they see."""

    host: int
    gpus: tuple[Gpu, ...] = ()

    @classmethod
    def now(cls) -> "Memory":
        """What there is at this moment."""
        return cls(available(), _gpus())


def available(root: Path = Path("/")) -> int:
    """Bytes of host memory that may still be taken: the kernel's estimate, or a container's limit if that is less."""
    fields = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines() if ":" in line)
    free = int(fields["MemAvailable"].split()[0]) * 1024
    for folder, limit, used in (
        ("sys/fs/cgroup", "memory.max", "memory.current"),
        ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        try:
            most = int((root / folder / limit).read_text())  # "max" is no number: no limit
            taken = int((root / folder / used).read_text()) - _reclaimable(root / folder / "memory.stat")
        except (OSError, ValueError):
            continue
        free = min(free, max(most - taken, 0))
    return free


def return_large_blocks() -> None:
    """Have blocks of a mebibyte or more go back to the system as they are freed, in this process from now on.

    glibc raises its threshold to the size of any block that is freed, up to 32 MB, and keeps smaller ones from then on:
    after forty images of 49 million pixels, which Pillow holds in blocks of 16 MB, 811 MB were left in use.
    A C library that has no such option is left as it is.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _MAPPED)


def _reclaimable(stat: Path) -> int:
    """Bytes of cached files that the kernel gives back before a container's limit counts."""
    fields = dict(line.split() for line in stat.read_text().splitlines())
    return int(fields.get("total_inactive_file", fields.get("inactive_file", 0)))


def _gpus() -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves; none where there is no nvidia-smi or it fails."""
    if shutil.which("nvidia-smi") is None:
        return ()
    command = ["nvidia-smi", "--query-gpu=memory.total,memory.free", "--format=csv,noheader,nounits"]
    if seen := os.environ.get("CUDA_VISIBLE_DEVICES"):
        command.append(f"--id={seen}")
    try:
        said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout
        return tuple(Gpu(*(int(number) << 20 for number in line.split(","))) for line in said.splitlines())
    except (OSError, subprocess.SubprocessError, ValueError):
        return ()
