"""Wire shape of GET /v1/me: what the caller's key allows, and this service's limits."""

from typing import Annotated

from pydantic import BaseModel, Field


class MeResponse(BaseModel):
    """The tenant that the caller's key belongs to, and the limits of its requests."""

    name: Annotated[str, Field(description="the tenant that holds the key; empty where the service has no keys")]
    keyed: Annotated[bool, Field(description="whether the service needs a key")]
    admin: Annotated[bool, Field(description="whether it may move aliases, roll back, pin and delete")]
    adapters: Annotated[list[str], Field(description="names or shell patterns of the adapters it may ask")]
    rate: Annotated[str | None, Field(description="most questions in a time, as 10/second; null: no limit")]
    concurrency: Annotated[
        int | None, Field(description="most of its questions that may run or wait at once; null: no limit")
    ]
    keeps: Annotated[bool, Field(description="whether questions are kept as training data, so that feedback is taken")]
    batch_questions: Annotated[int, Field(description="most questions of one batch")]
    body_limit: Annotated[int, Field(description="most bytes of one request")]
