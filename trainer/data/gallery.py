"""The pictures of one side of a set by their looks: measures, faults, and which are copies of another side's."""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.config import DISTANCE, TOLERANCE
from trainer.data.looks import SMALL, Look

# Pictures with a hash so near that are compared pixel by pixel, at most.
_MOST = 2048
_PIXELS = 3 * SMALL * SMALL


@dataclass(frozen=True, slots=True)
class Pair:
    """A held-out picture, and one that is trained on of which it is a copy; `same` where the bytes are the same."""

    held_out: str
    trained: str
    same: bool


class Gallery:
    """Pictures in the order they came. Memory: about 150 bytes a picture, with `copies` 850."""

    def __init__(self, pictures: Iterable[tuple[str, Look]], copies: bool = False) -> None:
        """Take in all pictures; with `copies` also what `across` compares."""
        self.faults: dict[str, str] = {}
        self.names: list[str] = []
        self._measures: Mapping[str, array[float]] = {
            "shorter side, pixels": array("f"),
            "longer side, pixels": array("f"),
            "brightness, of 255": array("f"),
            "contrast (standard deviation of grey, of 255)": array("f"),
            "sharpness (variance of the Laplacian)": array("f"),
        }
        self._digests: list[bytes] = []
        self._hashes, self._small = array("Q"), bytearray()
        for name, look in pictures:
            if look.fault is not None:
                self.faults[name] = look.fault
                continue
            self._add(name, look, copies)

    def _add(self, name: str, look: Look, copies: bool) -> None:
        self.names.append(name)
        sides = sorted((look.width, look.height))
        found = (*sides, look.brightness, look.contrast, look.sharpness)
        for column, value in zip(self._measures.values(), found, strict=True):
            column.append(value)
        if copies:
            self._digests.append(bytes.fromhex(look.sha256))
            self._hashes.append(look.hash)
            self._small += look.small

    def measures(self, marks: Sequence[float]) -> dict[str, list[float]]:
        """Of each measure its values at `marks` of a hundred; nothing where there is no picture."""
        if not self.names:
            return {}
        columns = {name: np.percentile(np.frombuffer(column, "f"), marks) for name, column in self._measures.items()}
        return {name: [float(value) for value in values] for name, values in columns.items()}

    def copies_in(self, trained: "Gallery") -> Iterator[Pair]:
        """A pair for each picture here that has a copy in `trained`, in their order; both were made with `copies`."""
        first: dict[bytes, int] = {}
        for place, digest in enumerate(trained._digests):
            first.setdefault(digest, place)
        hashes, small = trained._arrays()
        own_hashes, own_small = self._arrays()
        for place, name in enumerate(self.names):
            if (twin := first.get(self._digests[place])) is not None:
                yield Pair(name, trained.names[twin], same=True)
            elif (near := _nearest(own_hashes[place], own_small[place], hashes, small)) is not None:
                yield Pair(name, trained.names[near], same=False)

    def _arrays(self) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
        return np.frombuffer(self._hashes, np.uint64), np.frombuffer(self._small, np.uint8).reshape(-1, _PIXELS)


def _nearest(hash_: Any, pixels: NDArray[np.uint8], hashes: NDArray[np.uint64], small: NDArray[np.uint8]) -> int | None:
    """The place of the first picture that this one is a copy of."""
    near = np.flatnonzero(np.bitwise_count(hashes ^ hash_) <= DISTANCE)[:_MOST]
    if not len(near):
        return None
    steps = np.abs(small[near].astype(np.int16) - pixels).max(axis=1)
    copies = near[steps <= TOLERANCE]
    return int(copies[0]) if len(copies) else None
