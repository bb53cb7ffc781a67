"""Options of the `store` commands."""

from pydantic import Field
from pydantic_settings import CliSubCommand

from trainer.config.fields import Options


class CollectOptions(Options):
    """Remove versions that no alias names any more: a first run marks them, one so many days later removes them."""

    store: str = Field("adapters", description="the adapter store: a directory or an fsspec URL")
    days: float = Field(30.0, ge=0, description="days a version stays after the run that found it unnamed")
    keep: int = Field(3, ge=0, description="versions each alias pointed at before that stay, for the way back")


class StoreOptions(Options):
    """Look after an adapter store."""

    collect: CliSubCommand[CollectOptions] = Field(description="remove versions that nothing names")
