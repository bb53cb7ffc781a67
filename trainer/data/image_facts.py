"""Reads each image once for all commands: its digest, size, whether it decodes, and measures of how it looks.

Images that lie on this machine are read in as many processes as there are cores, and what was found is kept beside the
digests (`kept.py`): whichever command comes first reads them, and the others find it there.
"""

import hashlib
import io
import json
import logging
import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from service.environment import cores
from service.errors import ServiceError
from service.images import decode
from service.images.decode import DEFAULT_LIMITS
from service.memory import available
from service.text import LFS_POINTER
from trainer.data import files
from trainer.data.kept import Kept
from trainer.errors import DataError

log = logging.getLogger(__name__)

T = TypeVar("T")

# The name of the table in which facts are kept; a change of what a field means needs another name.
TABLE = "looks1"
# LLaVA-1.5's picture: an image is decoded as for it, larger JPEGs at a part of their size.
SIDE = 336
# A side in pixels of the picture that copies are compared by, and of the grey one that is measured.
SMALL, _GREY = 16, 256
# Images that the table is asked for at once, images of one task of a process, and batches that are begun ahead.
_BATCH, _TASK, _AHEAD = 256, 16, 3
# Items, a row each or so, whose images are read at once.
_ITEMS = 1024
# Fewer unread images than these are read in this process: they are read before another has started.
_FEW = 64
_THREADS = 4


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What one reading of an image file gave; where `fault` says why it would be refused, all but `sha256` are zero.

    `width` and `height` are pixels as it is shown. `brightness` and `contrast` are mean and standard deviation of its
    grey, 0 to 255; `sharpness` is the variance of the grey's Laplacian, 256 pixels the longer side, by which few edges
    mean blur. `hash` is the 64-bit perceptual hash (imagehash.phash), `small` its 16 x 16 pixels of three bytes, by
    which copies are found.
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
        """The facts as bytes, for the table beside the images."""
        facts = {name: value for name, value in asdict(self).items() if name != "small"}
        return json.dumps(facts).encode() + b"\n" + self.small

    @classmethod
    def of(cls, packed: bytes) -> "ImageFacts":
        """The facts that `packed` made these bytes of."""
        facts, _, small = packed.partition(b"\n")
        return cls(**json.loads(facts), small=small)


class ImageReader:
    """Reads images, a batch at a time, for as long as a `with` block lasts.

    With a `folder` what is found is kept in it, and an image is not read again while size and times of its file are the
    same. That a file cannot be read is its fault, and is not kept. At its end the log says how many were read.
    """

    def __init__(self, folder: Path | None, processes: int | None = None) -> None:
        """`processes` is how many read at once; None: as many as there are cores, and memory for one image each."""
        self._kept = Kept(folder, TABLE)
        self._readers = _Readers(processes or _at_once())
        self._bar = tqdm(desc="images", unit="image", disable=None)
        self._began = time.perf_counter()
        self._asked = self._read = 0

    def __enter__(self) -> "ImageReader":
        return self

    def __exit__(self, *_: object) -> None:
        for part in (self._bar, self._readers, self._kept):
            part.close()
        if self._read:
            seconds = time.perf_counter() - self._began
            log.info(
                "images: %d read, %d known from before; %.1f s, %.0f a second",
                *(self._read, self._asked - self._read, seconds, self._asked / seconds),
            )

    def begin(self, images: Sequence[str]) -> Callable[[], list[ImageFacts]]:
        """Begin to read `images`; what is returned waits for it, and gives the facts of each.

        Raises:
            DataError: from what is returned: a process that decodes was killed.
        """
        stamps = dict(zip(images, self._readers.threads.map(files.stamp, images), strict=True))
        known = self._kept.known(stamps)
        unread = [image for image in stamps if image not in known]
        read = self._readers.read(unread)
        self._asked += len(images)
        self._read += len(unread)

        def waited() -> list[ImageFacts]:
            found = dict(zip(unread, read(), strict=True))
            self._kept.keep({image: (stamps[image], facts.packed) for image, facts in found.items() if facts.sha256})
            self._bar.update(len(images))
            return [found[image] if image in found else ImageFacts.of(known[image]) for image in images]

        return waited


def facts_of_all(
    images: Iterable[str], folder: Path | None, processes: int | None = None
) -> Iterator[tuple[str, ImageFacts]]:
    """Each image with its facts, in order; none is held longer than it takes to hand it on. See `ImageReader`.

    Raises:
        DataError: a process that decodes was killed.
    """
    with ImageReader(folder, processes) as reader:
        waiting: deque[tuple[list[str], Callable[[], list[ImageFacts]]]] = deque()
        for names in in_batches(images, _BATCH):
            waiting.append((names, reader.begin(names)))
            if len(waiting) > _AHEAD:
                names, read = waiting.popleft()
                yield from zip(names, read(), strict=True)
        for names, read in waiting:
            yield from zip(names, read(), strict=True)


def with_faults(
    items: Iterable[T], images_of: Callable[[T], Iterable[str]], faults: dict[str, str | None], folder: Path | None
) -> Iterator[T]:
    """The same items, each after its images were read and stand in `faults`: what is wrong with each, or None.

    An image that is in `faults` already is not read again.

    Raises:
        DataError: as `facts_of_all`.
    """
    with ImageReader(folder) as reader:
        for batch in in_batches(items, _ITEMS):
            named = dict.fromkeys(image for item in batch for image in images_of(item))
            fresh = [image for image in named if image not in faults]
            faults.update((image, facts.fault) for image, facts in zip(fresh, reader.begin(fresh)(), strict=True))
            yield from batch


def in_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """`size` items at a time, in order; the last may be fewer."""
    left = iter(items)
    while batch := list(islice(left, size)):
        yield batch


def facts_of(data: bytes) -> ImageFacts:
    """The facts of the image file whose bytes are `data`, read by the decoder that the service uses."""
    sha256 = hashlib.sha256(data).hexdigest()
    if data.startswith(LFS_POINTER):
        return ImageFacts(sha256, "is a Git LFS pointer and not the image: run `git lfs pull`")
    try:
        picture = decode(data, side=SIDE)
    except ServiceError as error:
        return ImageFacts(sha256, str(error))
    width, height = _size(data, picture)
    grey = picture.convert("L")
    grey.thumbnail((_GREY, _GREY), Image.Resampling.BOX)
    values = np.asarray(grey, dtype=np.float32)
    return ImageFacts(
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


class _Readers:
    """Processes that read local files, begun when there are many, and threads that read files elsewhere."""

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._pool: ProcessPoolExecutor | None = None
        self.threads = ThreadPoolExecutor(_THREADS)

    def close(self) -> None:
        """Let processes and threads go; what they have not begun is left."""
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
        self.threads.shutdown(cancel_futures=True)

    def read(self, images: Sequence[str]) -> Callable[[], list[ImageFacts]]:
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


def _waited(task: "Future[list[ImageFacts]]") -> list[ImageFacts]:
    try:
        return task.result()
    except BrokenProcessPool as error:
        raise DataError(
            ["a process that decodes images was killed, as a system does that is out of memory: free some"]
        ) from error


def _leave_interrupts() -> None:
    """Ctrl-C is for the command, which ends its processes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _read_all(images: Sequence[str]) -> list[ImageFacts]:
    return [_read(image) for image in images]


def _read(image: str) -> ImageFacts:
    try:
        return facts_of(files.read(image))
    except DataError as error:
        return ImageFacts("", str(error))


def _at_once() -> int:
    """Processes that read: as many as there are cores, and as have the memory that decoding one image may take."""
    return max(1, min(cores(), available() // DEFAULT_LIMITS.memory))
