"""Wire shapes: the JSON of requests and responses as pydantic models, one file per family of routes. No other rules."""

from pydantic import BaseModel, ConfigDict


class Incoming(BaseModel):
    """The base of what a caller sends: an unknown field is an error, so that no wish is ignored without a word."""

    model_config = ConfigDict(extra="forbid", frozen=True)
