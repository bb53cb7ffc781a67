"""Wire shapes of adapters and errors. Knows no rule beyond shape; those of questions are in `schemas_*.py`."""

from pydantic import BaseModel


class BaseOut(BaseModel):
    """The base model in service."""

    id: str
    precision: str
    digest: str


class AdapterOut(BaseModel):
    """An adapter that serves, with the held-out result its manifest records (right answers out of rows)."""

    name: str
    version: str
    rank: int
    rows: int
    base_right: int
    adapter_right: int
    base_precision: str


class RefusedOut(BaseModel):
    """An adapter of the store that does not serve, and why."""

    name: str
    reason: str
    message: str


class AdaptersResponse(BaseModel):
    """What GET /v1/adapters answers."""

    base: BaseOut
    adapters: list[AdapterOut]
    refused: list[RefusedOut]


class ErrorBody(BaseModel):
    """What went wrong, in a word for programs and a sentence for people."""

    code: str
    message: str
    request_id: str


class ErrorResponse(BaseModel):
    """The one shape of every failure."""

    error: ErrorBody
