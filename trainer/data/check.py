"""`data check`: every line and every image of a set judged; all faults at once, or a summary."""

from collections import Counter
from collections.abc import Iterator

from tqdm import tqdm

from service.errors import ServiceError
from service.images import decode
from trainer.data import files
from trainer.data.config import CheckOptions
from trainer.data.rows import Line, read_lines
from trainer.errors import DataError

COMMON = 5
# LLaVA-1.5's; what a base of a smaller side needs of a file is less.
_SIDE = 336
_FIELDS = ("question", "answer")


def check(options: CheckOptions) -> str:
    """What the set holds.

    Raises:
        DataError: all faults, as file:line: fault.
    """
    faults: list[str] = []
    categories: Counter[str] = Counter()
    answers: Counter[str] = Counter()
    plain = 0
    ids: dict[str, int] = {}
    images: dict[str, str | None] = {}
    for line in tqdm(read_lines(options.data, options.images), desc="check", unit="line"):
        found = [*line.faults, *_id_faults(line, ids), *_row_faults(line, options, images)]
        faults += [f"{options.data}:{line.number}: {fault}" for fault in found]
        categories.update(row.category for row in line.rows)
        answers.update(row.answer for row in line.rows)
        plain += sum(row.image is None for row in line.rows)
    if not categories and not faults:
        faults = [f"{options.data}: holds no rows"]
    if faults:
        raise DataError(faults, shown=len(faults))
    return _summary(categories, answers, len(images), plain)


def image_fault(url: str) -> str | None:
    """Why an image would be refused, or None; decoded as the service decodes it."""
    try:
        decode(files.read(url), side=_SIDE)
    except (ServiceError, DataError) as error:
        return str(error)
    return None


def _id_faults(line: Line, ids: dict[str, int]) -> Iterator[str]:
    if line.id is not None and ids.setdefault(line.id, line.number) != line.number:
        yield f"id {line.id!r} is on line {ids[line.id]} already"


def _row_faults(line: Line, options: CheckOptions, images: dict[str, str | None]) -> Iterator[str]:
    for image in {row.image for row in line.rows if row.image}:
        if image not in images:
            images[image] = image_fault(image)
        if images[image]:
            yield f"{files.relative(image, options.images)}: {images[image]}"
    for row in line.rows:
        for field, text in ((name, said) for pair in row.exchanges for name, said in zip(_FIELDS, pair, strict=True)):
            if len(text) > options.max_text:
                yield f"{field} of {row.id} has {len(text)} characters, over --max-text {options.max_text}"


def _summary(categories: Counter[str], answers: Counter[str], images: int, plain: int) -> str:
    common = ", ".join(f"{answer!r} {count}" for answer, count in answers.most_common(COMMON))
    return "\n".join(
        [
            f"{categories.total()} rows, {images} images, {plain} rows without an image",
            "categories: " + ", ".join(f"{name} {count}" for name, count in categories.most_common()),
            f"answers: {len(answers)} different; most often {common}",
        ]
    )
