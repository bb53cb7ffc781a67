"""The pictures of one side of a set: measures of how they look, faults, and which are copies of the other side's."""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trainer.config.data import DISTANCE, TOLERANCE
from trainer.data.copies import Copies
from trainer.data.image_facts import ImageFacts


@dataclass(frozen=True, slots=True)
class Pair:
    """A held-out picture, and one that is trained on of which it is a copy; `same` where the bytes are the same."""

    held_out: str
    trained: str
    same: bool


class Gallery:
    """Pictures as they come. Memory: about 150 bytes a picture, 1,000 where others are to be compared with it."""

    def __init__(self, pictures: Iterable[tuple[str, ImageFacts]], trained: "Gallery | None" = None) -> None:
        """Take in all pictures; `pairs` are those that have a copy in `trained`."""
        self.faults: dict[str, str] = {}
        self.pairs: list[Pair] = []
        self._measures: Mapping[str, array[float]] = {
            "shorter side, pixels": array("f"),
            "longer side, pixels": array("f"),
            "brightness, of 255": array("f"),
            "contrast (standard deviation of grey, of 255)": array("f"),
            "sharpness (variance of the Laplacian)": array("f"),
        }
        self._bytes: dict[bytes, str] = {}
        self._copies = Copies(DISTANCE, TOLERANCE)
        for name, facts in pictures:
            if facts.fault is not None:
                self.faults[name] = facts.fault
                continue
            self._measure(facts)
            if trained is None:
                self._copies.add(name, facts)
                self._bytes.setdefault(bytes.fromhex(facts.sha256), name)
            elif twin := trained._bytes.get(bytes.fromhex(facts.sha256)):
                self.pairs.append(Pair(name, twin, same=True))
            elif alike := trained._copies.find(facts):
                self.pairs.append(Pair(name, alike, same=False))

    def _measure(self, facts: ImageFacts) -> None:
        sides = sorted((facts.width, facts.height))
        found = (*sides, facts.brightness, facts.contrast, facts.sharpness)
        for column, value in zip(self._measures.values(), found, strict=True):
            column.append(value)

    def measures(self, marks: Sequence[float]) -> dict[str, list[float]]:
        """The percentiles `marks` (0 to 100) of each measure, by its name; nothing where there is no picture."""
        columns = {
            name: np.percentile(np.frombuffer(column, "f"), marks) for name, column in self._measures.items() if column
        }
        return {name: [float(value) for value in values] for name, values in columns.items()}
