"""Wire shapes of a batch: one image, many questions, each through its own adapter."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, model_validator

from service.errors import InvalidRequest
from service.schemas.errors import ErrorResponse
from service.schemas.vqa import IMAGE_URL, ImageFields, QuestionFields, VQAResponse
from service.types import Question

# The most that --batch-questions can be set to.
MOST = 1024


def _question(value: Any) -> Any:
    return {"question": value} if isinstance(value, str) else value


class BatchRequest(ImageFields):
    """Questions about the same images."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "image": IMAGE_URL,
                    "questions": [
                        {"question": "what color is the shape?", "adapter": "shapes"},
                        {"question": "is there a digit?", "adapter": "digits", "choices": ["yes", "no"]},
                    ],
                },
                {
                    "image": IMAGE_URL,
                    "questions": ["what is in the image?", "how many?"],
                    "adapters": ["shapes", None],
                },
            ]
        }
    )

    questions: Annotated[
        list[Annotated[QuestionFields, BeforeValidator(_question, json_schema_input_type=QuestionFields | str)]],
        Field(min_length=1, max_length=MOST),
    ]
    adapters: Annotated[
        list[Annotated[str, Field(max_length=200)] | None] | None,
        Field(min_length=1, max_length=MOST, description="every question is asked through each; null: the base"),
    ] = None
    deadline_s: Annotated[FiniteFloat | None, Field(gt=0, le=600, description="seconds until 504, each")] = None
    stream: Annotated[
        bool,
        Field(
            description="answer with server-sent events: each result with its index as soon as it is there, then [DONE]"
        ),
    ] = False

    @model_validator(mode="before")
    @classmethod
    def _judge_count(cls, value: Any) -> Any:
        """Refuse a batch of over MOST questions before pydantic validates each of them."""
        if isinstance(value, dict):
            questions, adapters = value.get("questions"), value.get("adapters")
            if isinstance(questions, list) and isinstance(adapters, list):
                _check_count(len(questions) * len(adapters), MOST)
        return value

    def to_questions(self, id_: str, deadline_s: float, most: int) -> list[Question]:
        """Every question with every adapter, all adapters of the first question first, numbered: `id_`-0, `id_`-1 ...

        `deadline_s`, in seconds, holds where the request gives none of its own.

        Raises:
            InvalidRequest: over `most` questions, adapters both in `adapters` and in a question, or beams beside what
                they do not go with.
            ImageBroken, ImageTypeRefused: what `read_image` raises.
        """
        _check_count(len(self.questions) * len(self.adapters or [None]), most)
        if self.adapters is not None and any(asked.adapter is not None for asked in self.questions):
            raise InvalidRequest("adapters came for all and for one question: name them in one place")
        images = self.read_images()
        pairs = [(asked, who) for asked in self.questions for who in self.adapters or [asked.adapter]]
        return [
            asked.to_question_about(f"{id_}-{number}", images, who, self.deadline_s or deadline_s)
            for number, (asked, who) in enumerate(pairs)
        ]


def _check_count(count: int, most: int) -> None:
    if count > most:
        raise InvalidRequest(f"{count:,} questions came, each with each adapter: one batch may have {most:,}")


class BatchResponse(BaseModel):
    """For each question, in order, its answer or its error."""

    id: str
    results: list[VQAResponse | ErrorResponse]


class BatchEvent(BaseModel):
    """One result of a streamed batch; `index` counts from 0, in the order of `results`."""

    index: int
    result: VQAResponse | ErrorResponse
