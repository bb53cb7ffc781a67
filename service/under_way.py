"""How many questions the service works on, in memory that vLLM's processes can read.

The memory is shared by this process and by all that are forked from it after this module was imported, as vLLM's
processes are (service/engine/forking.py). A process that is started in another way has a count of its own, which
stays 0.
"""

import mmap

_count = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("q")


def begin() -> None:
    """Count one question more; `begin` and `end` are for the thread of the event loop alone."""
    _count[0] += 1


def end() -> None:
    """Count one question less."""
    _count[0] -= 1


def questions() -> int:
    """Questions that the service works on now, those among them whose pictures are still fetched or decoded."""
    return _count[0]
