"""What a set holds, as one HTML page that needs nothing else; `trainer/data/report.py` counts, this writes.

The page forbids itself scripts and the network, as the evaluation's does, and all text of rows is escaped.
"""

import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trainer.data import files
from trainer.data.gallery import Gallery, Pair
from trainer.data.image_facts import in_batches
from trainer.data.pages.pictures import Picture
from trainer.data.pages.template import render
from trainer.data.survey import Category, Survey

# Cards of a page of pictures; categories, answers and faults that are shown.
_PAGE, _CATEGORIES, _ANSWERS, _NAMED = 24, 40, 25, 20
# Where more than this share of all questions has the same answer, a warning says so.
_ONE_ANSWER = 0.6
_ENDS = (1, 2, 3, 5, 9, 17, 33, 65, 129, 257, 513, 1025, 2049, 4097)
_MARKS = (0, 5, 50, 95, 100)


@dataclass(frozen=True, slots=True)
class Card:
    """A picture that is shown, with questions and answers about it."""

    number: int
    image: Picture
    said: Sequence[tuple[str, str]]
    name: str
    category: str


@dataclass(frozen=True, slots=True)
class Set:
    """A set as it was found: its rows and those held out, its pictures, and what base it was measured by.

    `pairs` are held-out pictures with a copy that is trained on; `unshown` are pictures that were drawn and cannot be
    decoded; `gallery` has the faults of both sides.
    """

    data: str
    held_out: str | None
    images: str
    model: str
    context: int
    image_tokens: int
    found: Survey
    held: Survey | None
    gallery: Gallery
    pairs: Sequence[Pair]
    cards: Sequence[Card]
    unshown: int

    @property
    def name(self) -> str:
        """The file's name."""
        return posixpath.basename(self.data)


@dataclass(frozen=True, slots=True)
class Warned:
    """Something to look at before training: what, how many of it, what it means, and the first of them by name."""

    title: str
    count: int
    text: str
    named: Sequence[str] = ()

    def __str__(self) -> str:
        """In a line."""
        return f"{self.title}: {self.count:,}; {self.text}"


@dataclass(frozen=True, slots=True)
class Bar:
    """A count with its name and its share of all."""

    name: str
    count: int
    share: float


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts by length; `most` is the largest share, `words` say the middle and the end."""

    bars: Sequence[Bar]
    most: float
    words: str


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table of categories: its questions in --data, which the guess is made by, and those held out."""

    name: str
    trained: Category
    held: Category


def write_page(url: str, shown: Set) -> None:
    """Write the page to a path or URL.

    Raises:
        DataError: it cannot be written.
    """
    files.write(url, page(shown).encode())


def page(shown: Set) -> str:
    """The whole page as HTML text."""
    answers = shown.found.all.answers
    questions = shown.found.all.questions
    lines = _lines(shown)
    return render(
        "set.html",
        s=shown,
        sentence=sentence(shown),
        warnings=list(warnings(shown)),
        lines=lines,
        more=max(0, len(shown.found.categories) - _CATEGORIES),
        answers=[Bar(answer, count, count / questions) for answer, count in answers.most_common(_ANSWERS)],
        once=sum(count == 1 for count in answers.values()),
        answer_tokens=_histogram(shown.found.answer_tokens),
        row_tokens=_histogram(shown.found.row_tokens),
        measures=shown.gallery.measures(_MARKS),
        pages=list(in_batches(shown.cards, _PAGE)),
    )


def sentence(shown: Set) -> str:
    """The main counts of the set in one sentence, for the terminal."""
    found, held = shown.found, shown.held
    guess = found.all.guess
    said = (
        f"{found.rows:,} rows with {found.all.questions:,} questions about {len(found.images):,} pictures,"
        f" {found.text_only / found.rows:.1%} of the rows text alone, {found.conversations:,} of them conversations;"
        f" always answering {guess[:60]!r} is right for {found.all.right(guess):.1%}"
    )
    if held:
        said += (
            f"; held out are {held.rows:,} rows about {len(held.images):,} pictures, where that answer is right for"
            f" {held.all.right(guess):.1%}"
        )
    return f"{said}."


def warnings(shown: Set) -> Iterator[Warned]:
    """What to look at before training."""
    found, held = shown.found, shown.held
    if faults := shown.gallery.faults:
        named = [f"{files.relative(image, shown.images)}: {fault}" for image, fault in list(faults.items())[:_NAMED]]
        says = "their rows cannot be trained on; trainer data filter drops them."
        yield Warned("Pictures that cannot be read or decoded", len(faults), says, named)
    for side in filter(None, (found, held)):
        if side.too_long:
            named = [f"{place}: {tokens:,} tokens" for place, tokens in side.longest]
            says = (
                f"they come to more than the base's {shown.context:,} tokens, and training refuses them: shorten them."
            )
            yield Warned("Rows that do not fit the base", side.too_long, says, named)
    if held:
        yield from _both_sides(found, held, shown)
    if again := found.answered_otherwise:
        says = "the same question about the same picture has another answer; trainer data dedupe keeps the first."
        yield Warned("Rows that contradict an earlier one", again, says)
    if again := found.asked_again:
        says = "picture, question and answer are those of an earlier row; trainer data dedupe drops them."
        yield Warned("Rows that are there again", again, says)
    if (share := found.all.right(found.all.guess)) > _ONE_ANSWER:
        says = f"{share:.0%} of all: a model that says nothing else scores so."
        yield Warned(f"Questions whose answer is {found.all.guess[:60]!r}", found.all.answers[found.all.guess], says)


def _both_sides(found: Survey, held: Survey, shown: Set) -> Iterator[Warned]:
    for same, what in ((True, "that are trained on too"), (False, "that look like one that is trained on")):
        if copies := [pair for pair in shown.pairs if pair.same is same]:
            names = [
                f"{files.relative(pair.held_out, shown.images)} as {files.relative(pair.trained, shown.images)}"
                for pair in copies[:_NAMED]
            ]
            rows = sum(held.images[pair.held_out] for pair in copies)
            says = f"{rows:,} of {held.rows:,} held-out rows are about them, and a score on those flatters."
            yield Warned(f"Held-out pictures {what}", len(copies), says, names)
    if texts := len(held.texts & found.texts):
        says = "a score on them says what was learnt by heart."
        yield Warned("Held-out questions of text that are trained on too", texts, says)


def _lines(shown: Set) -> list[Line]:
    """The largest categories, where there are several, and behind them all questions."""
    found = shown.found.categories
    held = shown.held.categories if shown.held else {}
    largest = sorted(found, key=lambda name: (-found[name].questions, name))[:_CATEGORIES]
    lines = [Line(name, found[name], held.get(name, Category())) for name in largest if len(found) > 1]
    return [*lines, Line("all", shown.found.all, shown.held.all if shown.held else Category())]


def _histogram(lengths: Counter[int]) -> Histogram:
    total, longest = lengths.total(), max(lengths)
    starts = [start for start in _ENDS if start <= longest]
    bars = []
    for start, end in zip(starts, [*starts[1:], longest + 1], strict=True):
        count = sum(number for length, number in lengths.items() if start <= length < end)
        bars.append(Bar(f"{start:,}" if end == start + 1 else f"{start:,}–{end - 1:,}", count, count / total))
    first = next(place for place, bar in enumerate(bars) if bar.count)
    words = f"half have at most {_at(lengths, 0.5):,}, 95% at most {_at(lengths, 0.95):,}, the longest {longest:,}"
    return Histogram(bars[first:], max(bar.share for bar in bars), words)


def _at(lengths: Counter[int], share: float) -> int:
    """The length that `share` of all do not exceed."""
    left = share * lengths.total()
    for length in sorted(lengths):
        left -= lengths[length]
        if left <= 0:
            return length
    return max(lengths)
