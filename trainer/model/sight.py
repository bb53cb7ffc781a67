"""What a model is shown of images: states kept in a cache, pixels, or one grey picture in place of them all."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image

from trainer.data.files import read
from trainer.data.row import Row
from trainer.model.checkpoint import Checkpoint
from trainer.model.features import States
from trainer.model.forest import Sight
from trainer.model.forward import tower_states
from trainer.model.pictures import prepared


class Pixels:
    """The pixels of images as the service prepares them, for a step in which the tower runs; nothing is kept."""

    def __init__(self, checkpoint: Checkpoint, digests: Mapping[str, str]) -> None:
        self.digests = digests
        self._preparation, self._processor = checkpoint.preparation, checkpoint.processor

    def __call__(self, images: Sequence[str]) -> dict[str, torch.Tensor]:
        """See `Sight`."""
        pictures = [prepared(read(image), image, image, self._preparation) for image in images]
        return {"pixels": self._processor(images=pictures, return_tensors="pt").pixel_values}


class Grey:
    """In place of every image one picture of the base's padding colour, which goes through the tower once."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        side = checkpoint.preparation.size
        blank = Image.new("RGB", (side, side), checkpoint.preparation.colour)
        pixels = checkpoint.processor(images=[blank], return_tensors="pt").pixel_values
        with checkpoint.precision():
            self._states = tower_states(checkpoint.model, pixels).to(checkpoint.dtype).cpu()

    def __call__(self, images: Sequence[str]) -> dict[str, torch.Tensor]:
        """See `Sight`."""
        return {"states": self._states.expand(len(images), -1, -1)}


def sight_of(
    checkpoint: Checkpoint, rows: Iterable[Row], cache: Path | None, budget: int | None, digests: Mapping[str, str]
) -> Sight:
    """What a training is shown of its images: states kept in `cache`, of at most `budget` bytes, or without one pixels.

    Raises:
        DataError, OptionError: as `States.of`.
    """
    if cache is None:
        return Pixels(checkpoint, digests)
    return States.of(checkpoint, rows, cache, budget, digests)
