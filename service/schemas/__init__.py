"""Wire shapes: what JSON comes in and goes out, one file per family of routes. Knows no rule beyond shape."""

from pydantic import BaseModel, ConfigDict


class Incoming(BaseModel):
    """What a caller sends: a field we do not know is an error, not a wish we ignore."""

    model_config = ConfigDict(extra="forbid", frozen=True)
