"""Wire shapes of failures."""

from pydantic import BaseModel


class ErrorBody(BaseModel):
    """What went wrong: `code` for programs, `message` for people."""

    code: str
    message: str
    request_id: str


class ErrorResponse(BaseModel):
    """The one shape of every failure."""

    error: ErrorBody
