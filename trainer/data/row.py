"""A row: a conversation about an image, or about none. Knows nothing of files."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from service.types import ChatMessage


@dataclass(frozen=True, slots=True)
class Row:
    """A conversation about an image, or about none; most are one question and its answer.

    `image` is the path or URL of a file. `question` and `answer` are the last exchange, `history` the ones before it,
    in order. `place` is where it was read, "file:line". `answers` are all right answers to the last question, each as
    often as it was given, where there are several; `answer` is the one most gave. `rejected` is a worse answer to the
    last question, where the row is a pair of answers; `answer` is then the chosen one. `groups` are those
    that the row is counted in beside its category, which may be several.
    """

    id: str
    image: str | None
    question: str
    answer: str
    category: str
    place: str = field(default="", compare=False)
    history: tuple[tuple[str, str], ...] = ()
    answers: tuple[str, ...] = ()
    rejected: str | None = None
    groups: tuple[str, ...] = ()

    @property
    def exchanges(self) -> tuple[tuple[str, str], ...]:
        """All questions with their answers, in order."""
        return (*self.history, (self.question, self.answer))

    @property
    def messages(self) -> tuple[ChatMessage, ...]:
        """The history as the service takes it, two messages for each exchange: the first question shows the image."""
        return tuple(
            message
            for number, (question, answer) in enumerate(self.history)
            for message in (
                ChatMessage("user", question, int(self.image is not None and number == 0)),
                ChatMessage("assistant", answer),
            )
        )

    @property
    def pictures(self) -> int:
        """How many images the last question itself shows; a history shows them earlier."""
        return int(self.image is not None and not self.history)


def per_question(rows: Iterable[Row]) -> list[Row]:
    """Every question of every conversation as a row of its own, with the right answers before it as its history."""
    return [
        replace(
            row,
            id=f"{row.id}#{number}",
            question=question,
            answer=answer,
            history=row.history[:number],
            answers=row.answers if number == len(row.history) else (),
            rejected=row.rejected if number == len(row.history) else None,
        )
        if row.history
        else row
        for row in rows
        for number, (question, answer) in enumerate(row.exchanges)
    ]
