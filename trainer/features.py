"""Image files -> what the frozen tower and projector make of them, once per image however many questions ask.

Kept on disk, one memory-mapped array an image, under what it depends on: the tower's and projector's weights, the
preparation, and the image's bytes. A second run over the same images computes nothing and reads as it needs.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from service.adapters.manifest import preparation_facts
from service.images import picture
from trainer.data.files import read
from trainer.model import Checkpoint

BATCH = 64


class Features:
    """Projected image tokens of shape (image tokens, hidden size), by image file; float32 on the CPU."""

    def __init__(self, by_image: dict[str, torch.Tensor | Path]) -> None:
        self._by_image = by_image

    def __getitem__(self, image: str) -> torch.Tensor:
        found = self._by_image[image]
        return found if isinstance(found, torch.Tensor) else _map(found)

    @property
    def tokens(self) -> int:
        """Tokens per image; 0 where there is none."""
        return next((len(self[image]) for image in self._by_image), 0)

    @classmethod
    def of(cls, checkpoint: Checkpoint, images: list[str], cache: Path | None = None) -> "Features":
        """Run `images`, each once, through the checkpoint's tower and projector, or find them in `cache`.

        Raises:
            service.errors.ServiceError: an image that does not decode; the service would refuse it too.
        """
        folder = cache / _origin(checkpoint) if cache else None
        by_image: dict[str, torch.Tensor | Path] = {}
        unique = list(dict.fromkeys(images))
        with tqdm(total=len(unique), desc="image features", unit="image") as progress:
            for batch in _batches(unique):
                known = {image: _file(folder, data) for image, data in batch.items()} if folder else {}
                missing = {image: data for image, data in batch.items() if not (known and known[image].exists())}
                fresh = _compute(checkpoint, list(missing.values())) if missing else []
                for image, feature in zip(missing, fresh, strict=True):
                    if known:
                        _write(known[image], feature)
                    by_image[image] = known.get(image, feature)
                by_image |= known
                progress.update(len(batch))
        return cls(by_image)


def _batches(images: list[str]) -> Iterator[dict[str, bytes]]:
    for start in range(0, len(images), BATCH):
        yield {image: read(image) for image in images[start : start + BATCH]}


def _compute(checkpoint: Checkpoint, files: list[bytes]) -> list[torch.Tensor]:
    model = checkpoint.model
    pictures = [picture(data, checkpoint.preparation).image for data in files]
    pixels = checkpoint.processor(images=pictures, return_tensors="pt").pixel_values
    with torch.inference_mode():
        features = model.get_image_features(pixels.to(model.device, model.dtype)).pooler_output
    return [feature.float().cpu() for feature in features]


def _origin(checkpoint: Checkpoint) -> str:
    """Digest of all that a feature depends on beside the image."""
    digest = hashlib.sha256(repr(preparation_facts(checkpoint.preparation)).encode())
    for name, tensor in sorted(checkpoint.model.state_dict().items()):
        if "vision_tower" in name or "multi_modal_projector" in name:
            digest.update(name.encode())
            digest.update(tensor.float().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _file(folder: Path, data: bytes) -> Path:
    name = hashlib.sha256(data).hexdigest()
    return folder / name[:2] / f"{name}.npy"


def _write(file: Path, feature: torch.Tensor) -> None:
    """Other runs may write the same file: the last whole one wins, and none is seen half."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as target:
        np.save(target, feature.numpy())
    part.replace(file)


def _map(file: Path) -> torch.Tensor:
    return torch.from_numpy(np.load(file, mmap_mode="c"))  # copy on write: torch warns of read-only arrays
