"""Memory: what is freed goes back to the system."""

import platform
import subprocess
import sys

import pytest

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
