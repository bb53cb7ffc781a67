"""Which bytes an image file holds: SHA-256 by path, kept between runs, so that a set of images is read once."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from tqdm import tqdm

from trainer.data import files
from trainer.data.image_facts import TABLE, ImageFacts, in_batches
from trainer.data.kept import Kept
from trainer.data.row import Row
from trainer.errors import DataError

# Where commands keep it that have no option for it.
DEFAULT = Path("runs/features")
# Files between two writes of the index, and read at once.
_BATCH, _THREADS = 512, 4


def image_digests(rows: Iterable[Row], folder: Path | None) -> dict[str, str]:
    """SHA-256 in hex of the images of `rows`, by image, in the rows' order.

    Those known in `folder` from before are not read again while size and times of the file are the same. Where it
    cannot be written that is logged, and the next run reads the images again.

    Raises:
        DataError: images that cannot be read, all of them.
    """
    first: dict[str, str] = {}
    for row in rows:
        if row.image:
            first.setdefault(row.image, row.place or row.id)
    images = list(first)
    found: dict[str, str] = {}
    faults: list[str] = []
    with (
        closing(Kept(folder, "images")) as index,
        closing(Kept(folder, TABLE)) as looks,
        ThreadPoolExecutor(_THREADS) as threads,
        tqdm(total=len(images), desc="image digests", unit="image", disable=None) as progress,
    ):
        for batch in in_batches(images, _BATCH):
            stamps = dict(zip(batch, threads.map(files.stamp, batch), strict=True))
            known = index.known(stamps)
            others = {image: stamp for image, stamp in stamps.items() if image not in known}
            known |= {image: ImageFacts.of(packed).sha256 for image, packed in looks.known(others).items()}
            unread = [image for image in batch if image not in known]
            for image, digest in zip(unread, threads.map(_sha256, unread), strict=True):
                if isinstance(digest, DataError):
                    faults += [f"{first[image]}: {fault}" for fault in digest.faults]
                else:
                    known[image] = digest
            index.keep({image: (stamps[image], known[image]) for image in unread if image in known})
            found |= {image: known[image] for image in batch if image in known}
            progress.update(len(batch))
    if faults:
        raise DataError(faults)
    return found


def _sha256(url: str) -> str | DataError:
    try:
        return files.sha256(url)
    except DataError as error:
        return error
