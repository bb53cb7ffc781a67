"""Wire shapes of failures."""

from pydantic import BaseModel


class ErrorBody(BaseModel):
    """What went wrong, in a word for programs and a sentence for people."""

    code: str
    message: str
    request_id: str


class ErrorResponse(BaseModel):
    """The one shape of every failure."""

    error: ErrorBody
