"""Image files -> what the frozen tower, and projector, make of them, once per image however many questions ask.

Kept on disk, one memory-mapped array an image, under what it depends on: the tower's and projector's weights, the
preparation, and the image's bytes. A second run over the same images computes nothing and reads as it needs.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from service.adapters.manifest import preparation_facts
from service.errors import ServiceError
from service.images import Preparation, picture
from trainer.data.files import read
from trainer.data.rows import Row
from trainer.errors import DataError
from trainer.model import Checkpoint

BATCH = 64
# Pixels of shape (images, 3, side, side) -> what is kept of each image.
See = Callable[[torch.Tensor], Any]


@dataclass(frozen=True, slots=True)
class Photo:
    """An image file's bytes and their SHA-256 in hex, and the row that names it first."""

    data: bytes
    digest: str
    row: Row


class Features:
    """Projected image tokens of shape (image tokens, hidden size), by image file; float32 on the CPU.

    `digests` has the SHA-256 of each file's bytes, in hex, in the order of the rows.
    """

    def __init__(self, by_image: dict[str, torch.Tensor | Path], digests: Mapping[str, str]) -> None:
        self._by_image = by_image
        self.digests = digests

    def __getitem__(self, image: str) -> torch.Tensor:
        found = self._by_image[image]
        return found if isinstance(found, torch.Tensor) else _map(found)

    @property
    def tokens(self) -> int:
        """Tokens per image; 0 where there is none."""
        return next((len(self[image]) for image in self._by_image), 0)

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        rows: Sequence[Row],
        cache: Path | None = None,
        projected: bool = True,
        bfloat16: bool = False,
    ) -> "Features":
        """Read the images of `rows`, each once; run them through the tower and projector, or find them in `cache`.

        Not `projected`, they are the tower's alone, of shape (image tokens, tower's hidden size). With `bfloat16`
        matrices multiply in it, as they do where the base serves.

        Raises:
            DataError: images that cannot be read or decoded, all of them; the service would refuse them too.
        """
        see = partial(_see, checkpoint.model, projected=projected, bfloat16=bfloat16)
        folder = cache / _origin(checkpoint, projected, bfloat16) if cache else None
        first: dict[str, Row] = {}
        for row in rows:
            if row.image:
                first.setdefault(row.image, row)
        by_image: dict[str, torch.Tensor | Path] = {}
        digests: dict[str, str] = {}
        faults: list[str] = []
        with tqdm(total=len(first), desc="image features", unit="image") as progress:
            for images in _batches(list(first)):
                try:
                    photos = {image: _photo(first[image], image) for image in images}
                    by_image |= _features(checkpoint, photos, folder, see)
                    digests |= {image: photo.digest for image, photo in photos.items()}
                except DataError as error:
                    faults += error.faults
                progress.update(len(images))
        if faults:
            raise DataError(faults)
        return cls(by_image, digests)


def prepared(data: bytes, row: Row, preparation: Preparation) -> Image.Image:
    """The picture that the model sees of a row's image file.

    Raises:
        DataError: it is not an image that the service would take; the message names the row's place and the file.
    """
    try:
        return picture(data, preparation).image
    except ServiceError as error:
        raise DataError([f"{row.place or row.id}: {row.image}: {error}"]) from error


def _batches(images: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(images), BATCH):
        yield images[start : start + BATCH]


def _photo(row: Row, image: str) -> Photo:
    try:
        data = read(image)
    except DataError as error:
        raise DataError([f"{row.place or row.id}: {fault}" for fault in error.faults]) from error
    return Photo(data, hashlib.sha256(data).hexdigest(), row)


def _features(
    checkpoint: Checkpoint, batch: dict[str, Photo], folder: Path | None, see: See
) -> dict[str, torch.Tensor | Path]:
    """Where the features of a batch of images lie, or the features themselves where there is no `folder`."""
    if folder is None:
        return dict(zip(batch, _compute(checkpoint, list(batch.values()), see), strict=True))
    known = {image: folder / photo.digest[:2] / f"{photo.digest}.npy" for image, photo in batch.items()}
    missing = [image for image, file in known.items() if not file.exists()]
    fresh = _compute(checkpoint, [batch[image] for image in missing], see)
    for image, feature in zip(missing, fresh, strict=True):
        _write(known[image], feature)
    return dict(known)


def _compute(checkpoint: Checkpoint, photos: list[Photo], see: See) -> list[torch.Tensor]:
    """Features of `photos`; all that do not decode are named at once."""
    if not photos:
        return []
    pictures: list[Image.Image] = []
    faults: list[str] = []
    for photo in photos:
        try:
            pictures.append(prepared(photo.data, photo.row, checkpoint.preparation))
        except DataError as error:
            faults += error.faults
    if faults:
        raise DataError(faults)
    model = checkpoint.model
    pixels = checkpoint.processor(images=pictures, return_tensors="pt").pixel_values
    with torch.inference_mode():
        features = see(pixels.to(model.device, model.dtype))
    return [feature.float().cpu() for feature in features]


def _see(llava: Any, pixels: torch.Tensor, projected: bool, bfloat16: bool) -> Any:
    """What the language model is given of each picture, or what the projector is."""
    given: list[torch.Tensor] = []
    # LLaVA chooses the tower's layer and tokens itself; what it chose is what the projector is called with.
    hook = llava.model.multi_modal_projector.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    with hook, torch.autocast(llava.device.type, torch.bfloat16, enabled=bfloat16):
        features = llava.get_image_features(pixels).pooler_output
    return features if projected else given[0]


def _origin(checkpoint: Checkpoint, projected: bool, bfloat16: bool) -> str:
    """Digest of all that a feature depends on beside the image."""
    digest = hashlib.sha256(repr((preparation_facts(checkpoint.preparation), bfloat16)).encode())
    parts = ("vision_tower", "multi_modal_projector") if projected else ("vision_tower",)
    for name, tensor in sorted(checkpoint.model.state_dict().items()):
        if any(part in name for part in parts):
            digest.update(name.encode())
            digest.update(tensor.float().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _write(file: Path, feature: torch.Tensor) -> None:
    """Other runs may write the same file: the last whole one wins, and none is seen half."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as target:
        np.save(target, feature.numpy())
    part.replace(file)


def _map(file: Path) -> torch.Tensor:
    return torch.from_numpy(np.load(file, mmap_mode="c"))  # copy on write: torch warns of read-only arrays
