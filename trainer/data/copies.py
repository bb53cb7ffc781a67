"""Which images look like one that was seen before; knows pixels only through their looks.

A perceptual hash proposes copies, and a 16x16 picture confirms them: hashes are blind to colour and to small parts, and
two charts that differ in one bar must stay two. Each image is compared with all before it, a row of 64-bit numbers at
once: 150,000 images take 11,000,000,000 comparisons, some seconds.
"""

import numpy as np
from numpy.typing import NDArray

from trainer.data.looks import SMALL, Look

# Images that there is room for at first, and those whose pixels are compared at once.
_ROOM, _ONCE = 1024, 512


class Copies:
    """Images by how they look; memory holds 776 bytes of each."""

    def __init__(self, distance: int, tolerance: int) -> None:
        """Copies differ in `distance` bits of the hash at most, and in `tolerance` steps of 255 at any small pixel."""
        self._distance = distance
        self._tolerance = tolerance
        self._names: list[str] = []
        self._hashes: NDArray[np.uint64] = np.empty(_ROOM, np.uint64)
        self._small: NDArray[np.uint8] = np.empty((_ROOM, 3 * SMALL * SMALL), np.uint8)

    def first(self, name: str, look: Look) -> str:
        """The name of the first image that looked like this one; its own, and it is remembered, if there was none."""
        if (other := self.find(look)) is not None:
            return other
        self.add(name, look)
        return name

    def add(self, name: str, look: Look) -> None:
        """Remember an image, whatever it looks like."""
        count = len(self._names)
        if count == len(self._hashes):
            self._hashes = np.concatenate([self._hashes, np.empty_like(self._hashes)])
            self._small = np.concatenate([self._small, np.empty_like(self._small)])
        self._hashes[count] = look.hash
        self._small[count] = np.frombuffer(look.small, np.uint8)
        self._names.append(name)

    def find(self, look: Look) -> str | None:
        """The name of the first image remembered that looks like this one."""
        bits = np.bitwise_count(self._hashes[: len(self._names)] ^ np.uint64(look.hash))
        near = np.flatnonzero(bits <= self._distance)
        pixels = np.frombuffer(look.small, np.uint8).astype(np.int16)
        for start in range(0, len(near), _ONCE):
            some = near[start : start + _ONCE]
            alike = some[np.abs(self._small[some] - pixels).max(axis=1) <= self._tolerance]
            if len(alike):
                return self._names[int(alike[0])]
        return None
