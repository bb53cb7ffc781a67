"""Kinds of question, by what may answer them, and the figures that are usual for each kind.

    yes-no          the right answer is yes or no: accuracy, precision, recall and F1 of "yes", and the share of answers
                    that are yes, as POPE reports them (Li et al., EMNLP 2023). An answer counts by its first word; one
                    that begins otherwise is neither, where POPE's script takes it for a yes.
    choice          the question names lettered choices, "(A) … (B) …": accuracy.
    unanswerable    the right answer is "unanswerable", as VizWiz has it (Gurari et al., CVPR 2018).
    open            anything else: F1 of words, and the other metrics.

The first two are closed questions.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from trainer.data.row import Row
from trainer.metrics import normalise

Kind = Literal["yes-no", "choice", "unanswerable", "open"]
YES, NO, UNANSWERABLE = "yes", "no", "unanswerable"
_LETTERED = re.compile(r"\(A\).+\(B\)|^A[.)].+^B[.)]", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Detected:
    """How well one answer is given: of `rows` questions it is right for `positives`, and was given to `said`.

    `hits` is how often it was given and right. Precision is 0 where it was not given, recall where it is right for
    none.
    """

    rows: int
    positives: int
    said: int
    hits: int

    @property
    def precision(self) -> float:
        """Of the times it was said the share where it is right."""
        return self.hits / self.said if self.said else 0.0

    @property
    def recall(self) -> float:
        """Of the times it is right the share where it was said."""
        return self.hits / self.positives if self.positives else 0.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.hits / (self.said + self.positives) if self.hits else 0.0

    @property
    def ratio(self) -> float:
        """The share of all questions to which it was said."""
        return self.said / self.rows if self.rows else 0.0


@dataclass(frozen=True, slots=True)
class Polar:
    """Answers to yes-no questions: "yes" as `Detected`, the share that is right, and the share that is neither."""

    yes: Detected
    accuracy: float
    neither: float


def kind_of(row: Row) -> Kind:
    """What may answer a row's question, by its right answer and its words."""
    answer = normalise(row.answer)
    if answer in (YES, NO):
        return "yes-no"
    if answer == UNANSWERABLE:
        return "unanswerable"
    return "choice" if _LETTERED.search(row.question) else "open"


def polar(rows: Sequence[Row], answers: Sequence[str]) -> Polar | None:
    """The figures of the yes-no questions among `rows`; None: there are none."""
    pairs = [
        (normalise(row.answer), (normalise(answer).split() or [""])[0])
        for row, answer in zip(rows, answers, strict=True)
        if kind_of(row) == "yes-no"
    ]
    if not pairs:
        return None
    right = sum(expected == said for expected, said in pairs)
    neither = sum(said not in (YES, NO) for _, said in pairs)
    return Polar(_detected(pairs, YES), right / len(pairs), neither / len(pairs))


def unanswerable(rows: Sequence[Row], answers: Sequence[str]) -> Detected | None:
    """How well unanswerable questions are told from all others; None: none of `rows` is unanswerable."""
    pairs = [(normalise(row.answer), normalise(answer)) for row, answer in zip(rows, answers, strict=True)]
    found = _detected(pairs, UNANSWERABLE)
    return found if found.positives else None


def _detected(pairs: Sequence[tuple[str, str]], wanted: str) -> Detected:
    return Detected(
        rows=len(pairs),
        positives=sum(expected == wanted for expected, _ in pairs),
        said=sum(said == wanted for _, said in pairs),
        hits=sum(expected == said == wanted for expected, said in pairs),
    )
