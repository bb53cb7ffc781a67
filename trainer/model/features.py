"""Image files -> the frozen vision tower's states of them, computed once per image however many rows ask about it.

Kept on disk in shards under what they depend on: the tower's weights, the preparation, the precision, and each image's
bytes. The projector is no part of this: it runs in the step, and its output would be four times as large in LLaVA-1.5
(4096 numbers a token for 1024). A second run over the same images computes nothing, reads no image file that has not
changed, and maps what it needs.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from service.adapters.manifest import preparation_facts
from trainer.data.files import read
from trainer.data.index import image_digests
from trainer.data.row import Row
from trainer.errors import DataError
from trainer.model.checkpoint import Checkpoint
from trainer.model.forward import tower_states
from trainer.model.pictures import image_places, prepared
from trainer.model.shards import Shards, filled
from trainer.processes import gathered, own_share, raise_everywhere, this_process

# Tokens that go through the tower at once.
_AT_ONCE = 8192


class States:
    """The tower's states of images, each (image tokens, tower's hidden size), in the training's precision."""

    def __init__(self, digests: Mapping[str, str], kept: "Shards | Mapping[str, torch.Tensor]") -> None:
        """`digests` has each image's SHA-256 in hex, in the order of the rows, and `kept` the states by digest."""
        self.digests = digests
        self._kept = kept

    def __call__(self, images: Sequence[str]) -> dict[str, torch.Tensor]:
        """See `Sight`."""
        return {"states": torch.stack([self._kept[self.digests[image]] for image in images])}

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        rows: Iterable[Row],
        cache: Path | None = None,
        budget: int | None = None,
        digests: Mapping[str, str] | None = None,
    ) -> "States":
        """Run the tower over the images of `rows`, each once, or find its states of them in `cache`.

        Without a `cache` the states are held in memory. `budget` is bytes that the cache may take. Of several
        processes each computes a part, and with a cache all find all of it.

        Raises:
            DataError: images that cannot be read or decoded, all of them; the service would refuse them too.
            OptionError: there is no room for them.
        """
        rows = list(rows) if digests is None else rows
        places = image_places(rows)
        known = digests or image_digests(rows, cache)
        first = {known[image]: image for image in reversed(places)}
        if cache is None:
            return cls(known, dict(_made(checkpoint, list(first.items()), places, known)))
        shards = Shards(cache / _origin(checkpoint))
        with this_process().main_process_first():
            shards.refresh(check=this_process().is_main_process)
        missing = [(digest, image) for digest, image in sorted(first.items()) if digest not in shards]
        tokens, width = checkpoint.image_shape
        shards.check_room(len(missing) * tokens * width * checkpoint.dtype.itemsize, budget)
        faults: list[str] = []
        try:
            for shard in filled(_made(checkpoint, own_share(missing), places, known)):
                shards.write(shard)
        except DataError as error:
            faults = error.faults
        raise_everywhere(faults)
        if missing:
            shards.fresh = dict(gathered(list(shards.fresh.items())))
            shards.refresh(check=this_process().is_main_process)
        return cls(known, shards)


def at_once(checkpoint: Checkpoint) -> int:
    """Images that go through the tower together where their states are made before a training."""
    return max(1, _AT_ONCE // checkpoint.image_shape[0])


def _made(
    checkpoint: Checkpoint, images: list[tuple[str, str]], places: Mapping[str, str], known: Mapping[str, str]
) -> Iterator[tuple[str, torch.Tensor]]:
    """States by digest, as they are made; all images that do not decode are named at the end, copies of them too.

    Raises:
        DataError: there are such.
    """
    if not images:
        return
    size = at_once(checkpoint)
    faults: list[str] = []

    def prepare(image: str) -> Image.Image | None:
        try:
            return prepared(read(image), places[image], image, checkpoint.preparation)
        except DataError:
            for copy in (copy for copy in places if known[copy] == known[image]):
                try:
                    prepared(read(copy), places[copy], copy, checkpoint.preparation)
                except DataError as error:
                    faults.extend(error.faults)
            return None

    with ThreadPoolExecutor(cpu_count()) as threads, tqdm(desc="features", total=len(images), unit="image") as progress:
        for start in range(0, len(images), size):
            part = images[start : start + size]
            pictures = list(threads.map(prepare, [image for _, image in part]))
            found = [(digest, picture) for (digest, _), picture in zip(part, pictures, strict=True) if picture]
            if found and not faults:
                states = _states(checkpoint, [picture for _, picture in found])
                yield from zip([digest for digest, _ in found], states, strict=True)
            progress.update(len(part))
    if faults:
        raise DataError(faults)


def _states(checkpoint: Checkpoint, pictures: list[Image.Image]) -> torch.Tensor:
    pixels = checkpoint.processor(images=pictures, return_tensors="pt").pixel_values
    with checkpoint.precision():
        return tower_states(checkpoint.model, pixels).to(checkpoint.dtype).cpu()


def _origin(checkpoint: Checkpoint) -> str:
    """Digest of what a state depends on beside the image: the tower's weights, the preparation and the precision."""
    digest = hashlib.sha256(repr((preparation_facts(checkpoint.preparation), str(checkpoint.dtype))).encode())
    for name, tensor in sorted(checkpoint.model.state_dict().items()):
        if "vision_tower" in name:
            digest.update(name.encode())
            digest.update(tensor.float().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
