"""Wire shapes of adapters, feedback and errors. Knows no rule beyond shape; questions are in `schemas_*.py`."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _row_text(text: str) -> str:
    if not text.strip() or "<image>" in text:
        raise ValueError("a right answer has words, and no <image> among them")
    return text.strip()


class Incoming(BaseModel):
    """What a caller sends: a field we do not know is an error, not a wish we ignore."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FeedbackRequest(Incoming):
    """The right answer to a question that was asked."""

    id: Annotated[str, Field(min_length=1, max_length=100, description="the id of the answer that was given")]
    answer: Annotated[str, Field(max_length=2000), AfterValidator(_row_text)]
    comment: Annotated[str | None, Field(max_length=2000)] = None


class ErrorBody(BaseModel):
    """What went wrong, in a word for programs and a sentence for people."""

    code: str
    message: str
    request_id: str


class ErrorResponse(BaseModel):
    """The one shape of every failure."""

    error: ErrorBody
