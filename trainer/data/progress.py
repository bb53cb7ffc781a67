"""How far a command is: a bar on a terminal while it works, and behind it a line with count, seconds and rate."""

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

log = logging.getLogger(__name__)

T = TypeVar("T")


def with_progress(items: Iterable[T], what: str, unit: str = "row") -> Iterator[T]:
    """The same items, with a bar called `what`; once all were taken, the log says how many in how long."""
    count, began = 0, time.perf_counter()
    for count, item in enumerate(tqdm(items, desc=what, unit=unit), start=1):  # noqa: B007 - counted, then told
        yield item
    seconds = time.perf_counter() - began
    log.info("%s: %d %ss in %.1f s, %.0f a second", what, count, unit, seconds, count / max(seconds, 1e-9))
