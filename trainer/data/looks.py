"""What one reading of each image gives every command: digest, size, whether it decodes, and how it looks.

Images that lie on this machine are read in as many processes as there are cores, and what was found is kept beside the
digests (`kept.py`): whichever command comes first reads them, and the others find it there.
"""

import hashlib
import io
import json
import logging
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from service.errors import ServiceError
from service.images import decode
from trainer.data import files
from trainer.data.kept import Kept
from trainer.errors import DataError

log = logging.getLogger(__name__)

T = TypeVar("T")

# The table of what is found; another number where a field means something else.
TABLE = "looks1"
# LLaVA-1.5's picture: an image is decoded as for it, larger JPEGs at a part of their size.
SIDE = 336
# A side in pixels of the picture that copies are compared by, and of the grey one that is measured.
SMALL, _GREY = 16, 256
# Images between two looks at the table, in a task of a process, and in tasks at once.
_BATCH, _TASK, _AHEAD = 256, 16, 3
# Fewer unread images than these are read before a process has started.
_FEW = 64
_THREADS = 4


@dataclass(frozen=True, slots=True)
class Look:
    """What one reading of an image file gave; where `fault` says why it would be refused, all but `sha256` are zero.

    `width` and `height` are pixels as it is shown. `brightness` and `contrast` are mean and standard deviation of its
    grey, 0 to 255; `sharpness` is the variance of the grey's Laplacian, 256 pixels the longer side, by which few edges
    mean blur. `hash` is the 64-bit perceptual hash, `small` its 16 x 16 pixels of three bytes, by which copies are
    told.
    """

    sha256: str
    fault: str | None = None
    width: int = 0
    height: int = 0
    brightness: float = 0.0
    contrast: float = 0.0
    sharpness: float = 0.0
    hash: int = 0
    small: bytes = b""

    @property
    def packed(self) -> bytes:
        """As it is kept."""
        facts = {name: value for name, value in asdict(self).items() if name != "small"}
        return json.dumps(facts).encode() + b"\n" + self.small

    @classmethod
    def of(cls, packed: bytes) -> "Look":
        """What was kept."""
        facts, _, small = packed.partition(b"\n")
        return cls(**json.loads(facts), small=small)


def looks(images: Iterable[str], folder: Path | None, processes: int | None = None) -> Iterator[tuple[str, Look]]:
    """Each image with its look, in order; none is held longer than it takes to hand it on.

    What is known in `folder` from before is not read again while size and times of the file are the same. A file that
    cannot be read has that as its fault, which is not kept.

    Raises:
        DataError: a process that decodes was killed.
    """
    unread, count, began = 0, 0, time.perf_counter()
    with (
        closing(Kept(folder, TABLE)) as kept,
        _Readers(processes or _cores()) as readers,
        tqdm(desc="images", unit="image", disable=None) as progress,
    ):
        waiting: deque[tuple[_Batch, Callable[[], list[Look]]]] = deque()
        for names in in_batches(images, _BATCH):
            batch = _Batch.of(names, readers, kept)
            waiting.append((batch, readers.read(batch.unread)))
            unread += len(batch.unread)
            count += len(names)
            progress.update(len(names))
            if len(waiting) > _AHEAD:
                yield from _handed(*waiting.popleft(), kept)
        while waiting:
            yield from _handed(*waiting.popleft(), kept)
    if unread:
        seconds = time.perf_counter() - began
        log.info(
            "images: %d read, %d known from before; %.1f s, %.0f a second",
            *(unread, count - unread, seconds, count / seconds),
        )


def in_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """`size` items at a time, in order; the last may be fewer."""
    left = iter(items)
    while batch := list(islice(left, size)):
        yield batch


def look(data: bytes) -> Look:
    """How the image file `data` looks, by this project's own decoder."""
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        picture = decode(data, side=SIDE)
    except ServiceError as error:
        return Look(sha256, str(error))
    width, height = _size(data, picture)
    grey = picture.convert("L")
    grey.thumbnail((_GREY, _GREY), Image.Resampling.BOX)
    values = np.asarray(grey, dtype=np.float32)
    return Look(
        sha256,
        None,
        width,
        height,
        round(float(values.mean()), 2),
        round(float(values.std()), 2),
        round(_sharpness(values), 2),
        int(str(imagehash.phash(picture)), 16),
        picture.resize((SMALL, SMALL), Image.Resampling.BOX).tobytes(),
    )


def _size(data: bytes, picture: Image.Image) -> tuple[int, int]:
    """Width and height in the file's own pixels, turned as the picture is."""
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
    turned = (width > height) != (picture.width > picture.height) and picture.width != picture.height
    return (height, width) if turned else (width, height)


def _sharpness(grey: NDArray[np.float32]) -> float:
    if min(grey.shape) < 3:
        return 0.0
    middle = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * middle
    return float(laplacian.var())


@dataclass(frozen=True, slots=True)
class _Batch:
    """Some images, their stamps, the packed looks that are known, and the images that have to be read."""

    images: Sequence[str]
    stamps: dict[str, str | None]
    known: dict[str, bytes]
    unread: list[str]

    @classmethod
    def of(cls, images: Sequence[str], readers: "_Readers", kept: Kept) -> "_Batch":
        stamps = dict(zip(images, readers.threads.map(files.stamp, images), strict=True))
        known = kept.known(stamps)
        return cls(images, stamps, known, [image for image in stamps if image not in known])


def _handed(batch: _Batch, read: Callable[[], list[Look]], kept: Kept) -> Iterator[tuple[str, Look]]:
    found = dict(zip(batch.unread, read(), strict=True))
    kept.keep({image: (batch.stamps[image], look.packed) for image, look in found.items() if look.sha256})
    for image in batch.images:
        yield image, found[image] if image in found else Look.of(batch.known[image])


class _Readers:
    """Processes that read local files, begun when there are many, and threads that read files elsewhere."""

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._pool: ProcessPoolExecutor | None = None
        self._open = ExitStack()
        self.threads = self._open.enter_context(ThreadPoolExecutor(_THREADS))

    def __enter__(self) -> "_Readers":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
        self._open.close()

    def read(self, images: Sequence[str]) -> Callable[[], list[Look]]:
        """Begin to read; what is returned waits for it."""
        local = all(files.local(image) for image in images)
        if not local or (self._pool is None and len(images) < _FEW) or self._processes == 1:
            found = self.threads.map(_read, images) if not local else map(_read, images)
            return lambda: list(found)
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._processes, multiprocessing.get_context("spawn"), initializer=_leave_interrupts
            )
        tasks = [self._pool.submit(_read_all, task) for task in in_batches(images, _TASK)]
        return lambda: [look for task in tasks for look in _waited(task)]


def _waited(task: "Future[list[Look]]") -> list[Look]:
    try:
        return task.result()
    except BrokenProcessPool as error:
        raise DataError(
            ["a process that decodes images was killed, as a system does that is out of memory: free some"]
        ) from error


def _leave_interrupts() -> None:
    """Ctrl-C is for the command, which ends its processes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _read_all(images: Sequence[str]) -> list[Look]:
    return [_read(image) for image in images]


def _read(image: str) -> Look:
    try:
        return look(files.read(image))
    except DataError as error:
        return Look("", str(error))


def _cores() -> int:
    return len(os.sched_getaffinity(0))
