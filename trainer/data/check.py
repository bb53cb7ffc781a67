"""`data check`: every line and every image of a set is checked; all faults at once, or a summary."""

from collections import Counter
from collections.abc import Iterator

from trainer.config.data import CheckOptions
from trainer.data import files
from trainer.data.faults import Fault, Faults
from trainer.data.forms.reading import Reading
from trainer.data.image_facts import with_faults
from trainer.data.progress import with_progress
from trainer.data.rows import Line, Source
from trainer.data.survey import countable

COMMON = 5
_FIELDS = ("question", "answer")


def check(options: CheckOptions) -> str:
    """Read a whole set and count what it holds.

    Raises:
        DataError: all faults, as file:line: fault; of one kind the first 20, and how many more there are.
    """
    source = Source(options.data, options.images, Reading.of(options))
    faults = Faults()
    categories: Counter[str] = Counter()
    answers: Counter[str] = Counter()
    ids = _Ids()
    images: dict[str, str | None] = {}
    for line in with_faults(with_progress(source.lines(), "check"), images_of, images, options.index):
        for fault in (*line.faults, *_row_faults(line, options, images)):
            faults.add(f"{options.data}:{line.where}", fault)
        ids.count(line)
        categories.update(row.category for row in line.rows)
        answers.update(countable(row.answer) for row in line.rows)
    if not categories and not faults:
        faults.add(options.data, Fault("holds no rows"))
    if not faults and (blind := source.blind()):
        faults.add(options.data, blind)
    if faults:
        raise faults.error(every=True)
    return "\n".join([source.summary(), *ids.summary(), _summary(categories, answers, len(images), source.textual)])


def images_of(line: Line) -> list[str]:
    """The names of the images that a record's rows are about."""
    return [row.image for row in line.rows if row.image]


class _Ids:
    """Ids that rows give themselves. That several rows have the same is no fault, and the summary says so."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}
        self._again: list[str] = []
        self._count = 0

    def count(self, line: Line) -> None:
        """Note the id of one more row, and count it if an earlier row has it."""
        if line.id is not None and self._first.setdefault(line.id, line.where) != line.where:
            self._count += 1
            if len(self._again) < COMMON:
                self._again.append(f"{line.id!r} on {line.where} as on {self._first[line.id]}")

    def summary(self) -> list[str]:
        """A line for the report where ids are there twice."""
        if not self._count:
            return []
        return [f"{self._count} ids are there already, as LLaVA's mixes have them: {', '.join(self._again)}"]


def _row_faults(line: Line, options: CheckOptions, images: dict[str, str | None]) -> Iterator[Fault]:
    for image in {row.image for row in line.rows if row.image}:
        if why := images[image]:
            yield Fault(f"{{}}: {why}", files.relative(image, options.images))
    for row in line.rows:
        said = [(name, text) for pair in row.exchanges for name, text in zip(_FIELDS, pair, strict=True)]
        for field, text in [*said, ("rejected", row.rejected or "")]:
            if len(text) > options.max_text:
                yield Fault(f"{field} has {{}} characters, over --max-text {options.max_text}", str(len(text)))


def _summary(categories: Counter[str], answers: Counter[str], images: int, plain: int) -> str:
    common = ", ".join(f"{answer!r} {count}" for answer, count in answers.most_common(COMMON))
    return "\n".join(
        [
            f"{categories.total()} rows, {images} images, {plain} rows without an image",
            "categories: " + ", ".join(f"{name} {count}" for name, count in categories.most_common()),
            f"answers: {len(answers)} different; most often {common}",
        ]
    )
