"""Memory: what is freed goes back to the system, and GPUs are those that CUDA sees."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from service.memory import Gpu, Memory

# Freeing a larger block has glibc keep all that are smaller. Prints what more is resident, in MB, after ten images of
# 16 MB were freed while what was made after them stays.
_USE = """
from PIL import Image
from service.memory import return_large_blocks

def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) // 1000

{}
larger = bytes(20_000_000)
del larger
before = resident()
large = [Image.new("RGB", (2000, 2000), "teal") for _ in range(10)]
small = [bytes(600) for _ in range(10_000)]
del large
print(resident() - before)
"""


def _left(first: str) -> int:
    done = subprocess.run([sys.executable, "-c", _USE.format(first)], check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep other blocks")
def test_large_blocks_go_back_to_the_system_when_they_are_freed() -> None:
    assert _left("") > 100  # else there is nothing to see here
    assert _left("return_large_blocks()") < 20


@pytest.mark.parametrize(("visible", "count"), [(None, 2), ("1", 1), ("", 0)])
def test_gpus_are_those_that_cuda_visible_devices_leaves(
    visible: str | None, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty value leaves none, as CUDA has it."""
    smi = tmp_path / "nvidia-smi"
    smi.write_text('#!/bin/sh\ncase "$*" in *--id=*) echo "100, 60";; *) echo "100, 60"; echo "100, 60";; esac\n')
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert Memory.now().gpus == (Gpu(100 << 20, 60 << 20),) * count
