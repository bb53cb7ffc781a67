"""Options of `evaluate`, `calibrate` and `publish`, which all ask adapters."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from service.adapters.aliases import CANARY, NAME, AliasName
from service.embedded import embedded
from trainer.config.fields import (
    BLIND_ROWS,
    GATE,
    MAX_TOKENS,
    BlindRows,
    Canary,
    Configured,
    Gate,
    MaxTokens,
    Rank,
    Seed,
)
from trainer.config.fields import CANARY as SHARE
from trainer.config.reading import ReadingOptions

# As many as the service takes.
Beams = Annotated[int, Field(ge=1, le=8)]


class EvaluateOptions(Configured, ReadingOptions):
    """Ask held-out rows of a base and of adapters, in process or of a running service, and compare their answers."""

    examples: ClassVar[tuple[str, ...]] = (
        "python -m trainer evaluate --adapter meters --data held-out.jsonl --images photos --report report.html",
        "python -m trainer evaluate --adapter meters --data held-out.jsonl --images photos --model models/tiny-llava",
    )
    adapter: list[str] = Field(
        min_length=1,
        description="adapter to compare with the base, NAME or NAME@canary; of several each; in process a run too",
    )
    data: str = Field(description="held-out rows, in any form that training takes")
    images: str = Field("", description="the folder that the rows' image names are relative to [they are text alone]")
    model: str | None = Field(None, description="base checkpoint to ask in process; without it a service is asked")
    store: Path = Field(Path("adapters"), description="in process: the adapter store")
    url: list[str] | None = Field(
        None, description="the service's address; several are compared [http://127.0.0.1:8000]"
    )
    limit: int | None = Field(None, gt=0, description="only the first rows")
    score_rows: int = Field(
        2000,
        gt=0,
        description="questions asked, of each category its share; of 2000 the share right is known to about 2 points",
    )
    max_tokens: MaxTokens | None = Field(
        None, description="longest answer, in tokens [in process the longest right answer; of a service 64]"
    )
    beams: tuple[Beams, ...] = Field(
        (1,),
        min_length=1,
        description="beams of the search for each answer; several numbers are compared, as 1,2,3,4,5, by the"
        " share right and the seconds; 1: no search, each token is the likeliest",
    )
    blind_rows: BlindRows = Field(200, description=BLIND_ROWS)
    clients: int = Field(32, gt=0, description="of a service: questions asked at once")
    seed: Seed = Field(0, description="of the 95% intervals and of --blind-rows, which are drawn")
    report: str | None = Field(None, description="also write what was found as one HTML page to this path or URL")


class CalibrateOptions(Configured, ReadingOptions):
    """Learn from held-out rows how often answers of some confidence are right, and publish that with the adapter.

    The rows must be none that the adapter was trained on (such rows are left out), and none that it is to be judged by
    afterwards. Ask the service whose confidences are to be calibrated: in another precision they differ a little.
    """

    examples: ClassVar[tuple[str, ...]] = (
        "python -m trainer calibrate --adapter meters --data held-out.jsonl --images photos --url http://127.0.0.1:8000",
        "python -m trainer calibrate --adapter meters --data held-out.jsonl --images photos --model llava-int4",
    )
    adapter: str = Field(
        pattern=rf"^{NAME}(@{CANARY})?$",
        description="the adapter: NAME, whose stable version gets the calibration, or NAME@canary, whose canary does",
    )
    data: str = Field(description="held-out rows, in any form that training takes; 50 at least, 1000 are better")
    images: str = Field("", description="the folder that the rows' image names are relative to [they are text alone]")
    store: Path = Field(Path("adapters"), description="the adapter store to read it from and publish into")
    model: str | None = Field(None, description="base checkpoint to ask in process; without it a service is asked")
    url: str | None = Field(
        None, description="the service's address, which serves that version [http://127.0.0.1:8000]"
    )
    score_rows: int = Field(2000, gt=0, description="questions asked, of each category its share")
    max_tokens: MaxTokens | None = Field(
        None, description="longest answer, in tokens [in process the longest right answer; of a service 64]"
    )
    clients: int = Field(32, gt=0, description="of a service: questions asked at once")
    seed: Seed = Field(0, description="of the rows that are drawn, where there are more than --score-rows")


class PublishOptions(Configured, ReadingOptions):
    """Publish a PEFT adapter made elsewhere: convert it, or refuse it by name, and ask it against its base."""

    examples: ClassVar[tuple[str, ...]] = (
        "python -m trainer publish --adapter saves/llava/lora --name meters --model llava-hf/llava-1.5-7b-hf",
    )
    adapter: str = Field(
        description="what a tool has left: the directory of PEFT's files, or one that holds it, as Trainer's output"
        " does with its checkpoints; or a Hugging Face id, ORG/NAME"
        " (docs/how-to/foreign-adapters.md: what happens to which)"
    )
    name: AliasName = Field(description="the adapter's name in the store: what a question's `adapter` will say")
    about: str = Field("", description="what it is for and what it is not, for its card and GET /v1/adapters")
    store: Path = Field(Path("adapters"), description="the adapter store to publish into")
    model: str = Field(embedded("tiny-llava"), description="base checkpoint: a directory, or a Hugging Face id")
    modality: Literal["image", "text", "any"] = Field("any", description="which questions the adapter is meant for")
    max_rank: Rank = Field(64, description="largest rank, as the service's VQA_MAX_LORA_RANK")
    data: str | None = Field(
        None, description="held-out rows to score it by; without them it only has to differ from its base"
    )
    images: str | None = Field(None, description="the folder that the rows' image names are relative to")
    limit: int | None = Field(None, gt=0, description="only the first rows")
    gate: Gate = Field("auto", description=GATE)
    canary: Canary = Field(None, description=SHARE)
    max_tokens: MaxTokens | None = Field(None, description=MAX_TOKENS)
    blind_rows: BlindRows = Field(200, description=f"of --data: {BLIND_ROWS}")
    report: str | None = Field(None, description="also write the scores as one HTML page to this path or URL")
