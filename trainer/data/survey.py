"""What a set of rows holds, counted in one pass over rows of any number; knows nothing of pixels and pages."""

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from trainer.data.row import Row
from trainer.metrics import normalise

# Characters of an answer that are kept to count it by; a digest of the whole tells longer ones apart.
_KEY = 80
# The most rows that are named of those that do not fit, and the most rows that are kept of a picture that is shown.
_NAMED, _ROWS_SHOWN = 20, 4

# How many of the base's tokens a row takes: all of it with its picture, and each of its answers.
Measured = tuple[int, list[int]]


@dataclass(slots=True)
class Category:
    """The questions of one category, or of all; answers are counted as normalised by trainer/metrics.py."""

    questions: int = 0
    text_only: int = 0
    answers: Counter[str] = field(default_factory=Counter)

    def add(self, answer: str, text_only: bool) -> None:
        """Count one more question."""
        self.questions += 1
        self.text_only += text_only
        self.answers[answer] += 1

    @property
    def guess(self) -> str:
        """The most common answer; of several the first in the alphabet."""
        most = max(self.answers.values(), default=0)
        return min((answer for answer, count in self.answers.items() if count == most), default="")

    def right(self, guess: str) -> float:
        """The share of questions that are right by always answering `guess`."""
        return self.answers[guess] / self.questions if self.questions else 0.0


@dataclass(slots=True)
class Survey:
    """What one side of a set holds.

    `images` has the number of rows by picture; `answer_tokens` and `row_tokens` how many answers and rows have each
    number of tokens; `longest` the places and tokens of the first rows that do not fit (`too_long` of them).
    `asked_again` and `answered_otherwise` count rows whose question was asked of the same picture before, with the same
    answer or another. `texts` are digests of the questions without a picture.
    """

    rows: int = 0
    text_only: int = 0
    conversations: int = 0
    images: dict[str, int] = field(default_factory=dict)
    all: Category = field(default_factory=Category)
    categories: dict[str, Category] = field(default_factory=dict)
    answer_tokens: Counter[int] = field(default_factory=Counter)
    row_tokens: Counter[int] = field(default_factory=Counter)
    too_long: int = 0
    longest: list[tuple[str, int]] = field(default_factory=list)
    asked_again: int = 0
    answered_otherwise: int = 0
    texts: set[int] = field(default_factory=set)


def survey(rows: Iterable[Row], measured: Callable[[Row], Measured], context: int, sample: "Sample") -> Survey:
    """Count rows; `measured` gives a row's tokens, of which a row may have `context`; `sample` gets each row."""
    found = Survey()
    asked: dict[int, int] = {}
    for row in rows:
        found.rows += 1
        found.text_only += row.image is None
        found.conversations += bool(row.history)
        if row.image is None:
            found.texts.add(_hashed(" ".join(row.exchanges[0][0].lower().split())))
        else:
            found.images[row.image] = found.images.get(row.image, 0) + 1
        for _, answer in row.exchanges:
            key = _key(answer)
            found.all.add(key, row.image is None)
            found.categories.setdefault(row.category, Category()).add(key, row.image is None)
        _count_tokens(found, row, measured(row), context)
        _count_again(found, row, asked)
        sample.add(row)
    return found


def _count_tokens(found: Survey, row: Row, measured: Measured, context: int) -> None:
    tokens, answers = measured
    found.row_tokens[tokens] += 1
    found.answer_tokens.update(answers)
    if tokens > context:
        found.too_long += 1
        if len(found.longest) < _NAMED:
            found.longest.append((row.place or row.id, tokens))


def _count_again(found: Survey, row: Row, asked: dict[int, int]) -> None:
    """A question that was asked of the same picture before, behind the same words."""
    said = [" ".join(text.lower().split()) for exchange in row.exchanges for text in exchange]
    question, answer = _hashed("\0".join([row.image or "", *said[:-1]])), _hashed(said[-1])
    if question not in asked:
        asked[question] = answer
    elif asked[question] == answer:
        found.asked_again += 1
    else:
        found.answered_otherwise += 1


class Sample:
    """A few pictures with their first rows, the same few for the same set and seed, whatever the rows' order.

    Those with the smallest digests of name and seed are kept, so a picture that was let go does not come back.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size, self._seed = size, seed
        self._heap: list[tuple[int, str]] = []
        self._rows: dict[str, list[Row]] = {}

    def add(self, row: Row) -> None:
        """One more row; text alone has no picture to show."""
        if row.image is None or not self._size:
            return
        if row.image in self._rows:
            if len(kept := self._rows[row.image]) < _ROWS_SHOWN:
                kept.append(row)
            return
        rank = -_hashed(f"{self._seed}:{row.image}")
        if len(self._heap) < self._size:
            heapq.heappush(self._heap, (rank, row.image))
        elif rank > self._heap[0][0]:
            _, gone = heapq.heapreplace(self._heap, (rank, row.image))
            del self._rows[gone]
        else:
            return
        self._rows[row.image] = [row]

    def __iter__(self) -> Iterator[tuple[str, list[Row]]]:
        """Pictures with their first rows, in the order of their digests."""
        for _, image in sorted(self._heap, reverse=True):
            yield image, self._rows[image]


def countable(text: str) -> str:
    """A text as it is counted by: itself, or of a long one the beginning and a digest of all of it."""
    return text if len(text) <= _KEY else f"{text[:_KEY]}… ({len(text)} characters, {_hashed(text):016x})"


@lru_cache(100_000)
def _key(answer: str) -> str:
    """What an answer is counted by."""
    return countable(normalise(answer))


def _hashed(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=8).digest())
