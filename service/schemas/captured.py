"""Wire shapes of kept answers that nobody has judged yet."""

from typing import Annotated

from pydantic import BaseModel, Field

from service.capture.review import Waiting


class KeptOut(BaseModel):
    """An answer that was given and kept; its `id` is what POST /v1/feedback takes."""

    id: str
    question: str
    answer: str
    confidence: float
    adapter: str | None
    version: str | None
    day: Annotated[str | None, Field(description="when it was given, UTC")]
    image: Annotated[str | None, Field(description="the picture the model saw, as a data URL")]


class CapturedResponse(BaseModel):
    """Answers that nobody judged yet, least confident first."""

    answers: list[KeptOut]
    waiting: Annotated[int, Field(description="how many there are in all")]
    right: Annotated[dict[str, int], Field(description="right answers that are kept, by adapter; of the base under ''")]
    whole: Annotated[
        bool, Field(description="false: more lines are kept than are read at once, and the oldest were left out")
    ]

    @classmethod
    def of(cls, found: Waiting) -> "CapturedResponse":
        """The wire shape of a Waiting."""
        answers = [
            KeptOut(
                id=each.request,
                question=each.question,
                answer=each.answer,
                confidence=each.confidence,
                adapter=each.adapter,
                version=each.version,
                day=each.day,
                image=image,
            )
            for each, image in zip(found.answers, found.pictures, strict=True)
        ]
        return cls(answers=answers, waiting=found.waiting, right=dict(sorted(found.right.items())), whole=found.whole)
