"""How many bytes of memory are free: of this machine or container, and of its GPUs; has freed blocks given back.

Reads /proc and cgroup files, runs nvidia-smi, and sets an option of the C library's malloc.
"""

import ctypes
import os
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

GIB = 1 << 30
# glibc's M_MMAP_THRESHOLD (malloc.h): from this size on a block is mapped on its own. And what we set it to: 1 MiB.
_M_MMAP_THRESHOLD, _MAPPED = -3, 1 << 20


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU's memory in bytes: all of it, and what no process uses."""

    total: int
    free: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that this process and its children may still take on the host, and each GPU that they see."""

    host: int
    gpus: tuple[Gpu, ...] = ()

    @classmethod
    def now(cls) -> "Memory":
        """The memory as it is at this moment.

        Raises: what `available` raises.
        """
        return cls(available(), _gpus())


def available(root: Path = Path("/")) -> int:
    """Bytes of host memory that may still be taken: Linux's MemAvailable, or what a container's limit leaves if less.

    `root` is where /proc and /sys are looked for. Limits of cgroups of version 2 and 1 count.

    Raises:
        OSError: there is no /proc/meminfo, as on a system that is not Linux.
    """
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
    """From now on give blocks of 1 MiB or more back to the system when they are freed; holds for this whole process.

    By default glibc raises its threshold to the size of any mapped block that is freed, up to 32 MiB, and keeps smaller
    freed blocks for itself (mallopt(3), M_MMAP_THRESHOLD); to set the option turns that off. Before it was set,
    after forty images of 49 million pixels, which Pillow holds in blocks of 16 MB, 811 MB were left in use. A C library
    without this option is left as it is.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _MAPPED)


def _reclaimable(stat: Path) -> int:
    """Bytes of file cache in a container's usage that the kernel frees before it enforces the limit."""
    fields = dict(line.split() for line in stat.read_text().splitlines())
    return int(fields.get("total_inactive_file", fields.get("inactive_file", 0)))


def _gpus() -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves; none where there is no nvidia-smi or it fails."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if seen == "" or shutil.which("nvidia-smi") is None:
        return ()
    command = ["nvidia-smi", "--query-gpu=memory.total,memory.free", "--format=csv,noheader,nounits"]
    if seen is not None:
        command.append(f"--id={seen}")
    try:
        said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout
        return tuple(Gpu(*(int(number) << 20 for number in line.split(","))) for line in said.splitlines())
    except (OSError, subprocess.SubprocessError, ValueError):
        return ()
