"""How many requests the service works on, in memory that vLLM's processes can read.

The memory is shared by this process and by all that are forked from it after this module was imported, as vLLM's
processes are (service/engine/forking.py). A process that is started in another way has a count of its own, which
stays 0.
"""

import mmap
from collections.abc import Iterator
from contextlib import contextmanager

_count = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("q")


@contextmanager
def one() -> Iterator[None]:
    """Count one request more while the block runs; for the thread of the event loop alone."""
    _count[0] += 1
    try:
        yield
    finally:
        _count[0] -= 1


def requests() -> int:
    """Requests that the service works on now; a batch of questions is one."""
    return _count[0]
