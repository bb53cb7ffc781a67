"""What a training step is shown of its images: states kept in a cache, or pixels."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from trainer.data.files import read
from trainer.data.row import Row
from trainer.model.checkpoint import Checkpoint
from trainer.model.features import States
from trainer.model.forest import Sight
from trainer.model.pictures import prepared


class Shown:
    """Images prepared and handed to the step, where the tower runs: nothing is kept."""

    def __init__(self, checkpoint: Checkpoint, digests: Mapping[str, str]) -> None:
        self.digests = digests
        self._preparation, self._processor = checkpoint.preparation, checkpoint.processor

    def __call__(self, images: Sequence[str]) -> dict[str, torch.Tensor]:
        """See `Sight`."""
        pictures = [prepared(read(image), image, image, self._preparation) for image in images]
        return {"pixels": self._processor(images=pictures, return_tensors="pt").pixel_values}


def sight_of(
    checkpoint: Checkpoint, rows: Iterable[Row], cache: Path | None, budget: int | None, digests: Mapping[str, str]
) -> Sight:
    """What a training is shown of its images: states kept in `cache`, or without one pixels for each step."""
    if cache is None:
        return Shown(checkpoint, digests)
    return States.of(checkpoint, rows, cache, budget, digests)
