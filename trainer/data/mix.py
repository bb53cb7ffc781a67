"""`data mix`: several sets -> one, by weight, shuffled by a seed. Memory holds no row but the one that is written."""

import logging
import posixpath
import random

from trainer.config.data import MixOptions
from trainer.data.progress import with_progress
from trainer.data.stream import RowFile
from trainer.data.write import Report, writing
from trainer.errors import DataError, OptionError

log = logging.getLogger(__name__)


def mix(options: MixOptions) -> str:
    """Write the mixture and say what each set gave.

    Raises:
        DataError: faulty rows, of all sets at once.
        OptionError: options that do not belong together, or more rows asked than there are.
    """
    if not len(options.data) == len(options.images) == len(options.weight):
        raise OptionError("--data, --images and --weight: give each once per set, in the same order")
    if min(options.weight) <= 0:
        raise OptionError("--weight: a weight is above 0; leave a set out instead")
    folder = common_folder(options.images)
    sets = _read(options)
    counts = shares([len(rows) for rows in sets], options.weight, options.rows)
    rng = random.Random(options.seed)
    places = [
        (rows, place) for rows, count in zip(sets, counts, strict=True) for place in rng.sample(range(len(rows)), count)
    ]
    rng.shuffle(places)
    report = Report()
    with writing(options.output, folder, report) as writer:
        for rows, place in with_progress(places, "mix"):
            writer.write(rows[place])
    taken = [
        f"{name}: {count} of {len(rows)} rows, the others left out by --weight"
        for name, rows, count in zip(options.data, sets, counts, strict=True)
    ]
    return "\n".join([str(report), *taken, f"image folder: --images {folder}"])


def shares(sizes: list[int], weights: list[float], rows: int | None) -> list[int]:
    """How many rows each set gives; with `rows` unset, as many as the scarcest set allows.

    Raises:
        OptionError: a set has fewer rows than its share.
    """
    total = sum(weights)
    whole = min(size * total / weight for size, weight in zip(sizes, weights, strict=True)) if rows is None else rows
    ends = [round(whole * sum(weights[: index + 1]) / total + 1e-9) for index in range(len(weights))]
    counts = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    if rows is None:  # rounding may ask for one row more than there is
        return [min(count, size) for count, size in zip(counts, sizes, strict=True)]
    for number, (count, size) in enumerate(zip(counts, sizes, strict=True), start=1):
        if count > size:
            raise OptionError(f"--rows {rows}: set {number} would give {count} of its {size} rows; ask for fewer")
    return counts


def common_folder(folders: list[str]) -> str:
    """The deepest folder that all the sets' image folders lie in.

    Raises:
        OptionError: there is none.
    """
    try:
        common = posixpath.commonpath(folders)
    except ValueError:
        common = ""
    if any("://" in folder for folder in folders):
        common = common.replace(":/", "://", 1)
        if not all(folder.startswith(common) for folder in folders) or common.count("/") < 3:
            common = ""
    if not common and not all(folder and not posixpath.isabs(folder) and "://" not in folder for folder in folders):
        raise OptionError(f"--images {', '.join(folders)}: no folder holds them all; copy them into one")
    return common or "."


def _read(options: MixOptions) -> list[RowFile]:
    sets: list[RowFile] = []
    faults: list[str] = []
    for data, images in zip(options.data, options.images, strict=True):
        try:
            sets.append(RowFile(data, images))
        except DataError as error:
            faults += error.faults
            continue
        log.info("%s: %s", data, sets[-1].source.summary())
        if blind := sets[-1].source.blind():
            faults.append(f"{data}: {blind}")
    if faults:
        raise DataError(faults)
    return sets
