"""Every option of the watcher, declared once."""

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

_Url = Annotated[str, Field(pattern=r"^https?://[^/\s]+[^\s]*$")]


class Options(BaseSettings):
    """Watch canaries: promote one that is right more often than stable, roll back one that is worse, else wait.

    A canary is an alias with a share of an adapter's questions. Both versions are judged by the feedback that callers
    sent to POST /v1/feedback, by failures and by latency, since either's share or version changed last. Each decision
    is printed as a line of JSON with the figures that it is based on and the command that undoes it. An admin's key is
    read from CANARY_KEY in the environment.
    """

    headings: ClassVar[dict[str, str]] = {
        "url": "what is watched",
        "level": "when it decides",
        "every_s": "how it runs",
    }
    examples: ClassVar[tuple[str, ...]] = (
        "python -m service.canary --once --dry-run",
        "CANARY_KEY=... python -m service.canary --url http://a:8000,http://b:8000 --least 100 --log decisions.jsonl",
        "python -m service.canary --adapter digits --level 0.01 --longest-h 48",
    )
    model_config = SettingsConfigDict(
        env_prefix="CANARY_",
        frozen=True,
        extra="forbid",
        cli_parse_args=False,
        cli_kebab_case=True,
        cli_exit_on_error=False,
        cli_implicit_flags=True,
    )

    url: tuple[_Url, ...] = Field(
        ("http://127.0.0.1:8000",),
        min_length=1,
        description="replicas of one store, each by its own address: through a load balancer they cannot be told apart",
    )
    adapter: tuple[str, ...] = Field((), description="adapters to watch [all that have a canary]")
    alias: str = Field("canary", description="the alias that is the canary")
    key: SecretStr | None = Field(None, description="an admin's key; give it in the environment, as CANARY_KEY")

    level: float = Field(
        0.05,
        gt=0,
        lt=0.5,
        description="chance, over all looks together, to promote a canary that is no better; and to roll back one that "
        "is no worse",
    )
    least: int = Field(30, ge=10, description="judged answers of each version before feedback decides")
    slower: float = Field(1.5, ge=1, description="roll back where its p95 is over this times stable's")
    least_timed: int = Field(
        300,
        ge=100,
        description="answers of each version before latency decides: a version's first ones wait until it is loaded and"
        " proven",
    )
    longest_h: float = Field(
        168.0, gt=0, description="hours after which a canary not shown to be better is rolled back"
    )

    every_s: float = Field(60.0, gt=0, description="seconds between two looks")
    once: bool = Field(False, description="look once and end")
    dry_run: bool = Field(False, description="say what would be done, and change nothing")
    tries: int = Field(5, ge=1, description="tries of a replica that is away or busy, 1, 2, 4 ... seconds apart")
    log: Path | None = Field(None, description="file to append the lines to, beside printing them")
