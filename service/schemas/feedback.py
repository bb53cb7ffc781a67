"""Wire shape of feedback on an answer."""

from typing import Annotated

from pydantic import AfterValidator, Field

from service.errors import MalformedRequest
from service.schemas import Incoming
from service.text import is_unicode


def _row_text(text: str) -> str:
    if not is_unicode(text):
        raise MalformedRequest("the right answer holds a NUL or half a surrogate pair: send valid Unicode")
    if not text.strip() or "<image>" in text:
        raise ValueError("a right answer has words, and no <image> among them")
    return text.strip()


class FeedbackRequest(Incoming):
    """The right answer to a question that was asked."""

    id: Annotated[str, Field(min_length=1, max_length=100, description="the id of the answer that was given")]
    answer: Annotated[str, Field(max_length=2000), AfterValidator(_row_text)]
    comment: Annotated[str | None, Field(max_length=2000)] = None
