"""Which images look like one that came before, by what image_facts.py found in each; opens no image.

A perceptual hash proposes copies, and a 16x16 picture confirms them: hashes are blind to colour and to small parts, and
two charts that differ in one bar must stay two. Each image is compared with all before it, a row of 64-bit numbers at
once: 150,000 images take 11,000,000,000 comparisons, some seconds.
"""

import numpy as np
from numpy.typing import NDArray

from trainer.data.image_facts import SMALL, ImageFacts

# Images whose hashes and small pixels lie in one block of memory, and images whose pixels are compared at once.
_BLOCK, _ONCE = 1 << 16, 512


class Copies:
    """Images by how they look; memory holds 776 bytes of each (hash and 16 x 16 pixels), and its name."""

    def __init__(self, distance: int, tolerance: int) -> None:
        """Copies differ in `distance` bits of the hash at most, and in `tolerance` steps of 255 at any small pixel."""
        self._distance = distance
        self._tolerance = tolerance
        self._names: list[str] = []
        # Blocks of hashes and of small pixels, of which the last is not full.
        self._blocks: list[tuple[NDArray[np.uint64], NDArray[np.uint8]]] = []

    def first(self, name: str, facts: ImageFacts) -> str:
        """The name of the first image that looked like this one; its own, and it is remembered, if there was none."""
        if (other := self.find(facts)) is not None:
            return other
        self.add(name, facts)
        return name

    def add(self, name: str, facts: ImageFacts) -> None:
        """Remember an image, whether or not it is a copy of another."""
        place = len(self._names) % _BLOCK
        if place == 0:  # the system gives memory for what is written, not for the whole block
            self._blocks.append((np.empty(_BLOCK, np.uint64), np.empty((_BLOCK, 3 * SMALL * SMALL), np.uint8)))
        hashes, small = self._blocks[-1]
        hashes[place] = facts.hash
        small[place] = np.frombuffer(facts.small, np.uint8)
        self._names.append(name)

    def find(self, facts: ImageFacts) -> str | None:
        """The name of the first image remembered that looks like this one."""
        pixels = np.frombuffer(facts.small, np.uint8).astype(np.int16)
        for number, (hashes, small) in enumerate(self._blocks):
            count = min(_BLOCK, len(self._names) - number * _BLOCK)
            near = np.flatnonzero(np.bitwise_count(hashes[:count] ^ np.uint64(facts.hash)) <= self._distance)
            for start in range(0, len(near), _ONCE):
                some = near[start : start + _ONCE]
                alike = some[np.abs(small[some] - pixels).max(axis=1) <= self._tolerance]
                if len(alike):
                    return self._names[number * _BLOCK + int(alike[0])]
        return None
