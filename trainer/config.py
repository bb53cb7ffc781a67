"""Every option of every command, declared once: the command line and its --help come from these classes."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from service.adapters.store import NAME

# The ranks vLLM has kernels for; a command line gives text, which a Literal of numbers would not take.
Rank = Annotated[Literal[8, 16, 32, 64, 128, 256], BeforeValidator(int)]
# The largest that any service may be set to allow.
LARGEST_RANK = 512


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


# A bad name would otherwise be found when hours of training are to be published.
Name = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]


class TrainOptions(_Options):
    """Train a LoRA adapter from questions about images, score it against its base, and publish it to a store."""

    name: Name = Field(description="the adapter's name: what a question's `adapter` will say")
    data: str = Field(
        description="training rows, a path or URL: LLaVA JSON lines, or lines of {image, question, answer}"
    )
    images: str = Field(description="the folder, a path or URL, that the rows' image names are relative to")
    store: Path = Field(Path("adapters"), description="the adapter store to publish into")
    model: str = Field("models/tiny-llava", description="base checkpoint: a directory, or a Hugging Face id")
    output: Path | None = Field(None, description="where the run keeps its log and checkpoints [runs/NAME]")

    eval_data: str | None = Field(None, description="held-out rows; without it a share of the images is held out")
    holdout: float = Field(0.1, gt=0, lt=1, description="share of the images held out, by seed")
    modality: Literal["image", "text", "any"] = Field("any", description="which questions the adapter is meant for")

    rank: Rank = Field(16, description="LoRA rank; above 64 returns little")
    alpha: float | None = Field(None, gt=0, description="LoRA alpha [2 x rank]")
    dropout: float = Field(0.0, ge=0, lt=1, description="LoRA dropout")
    epochs: float = Field(3.0, gt=0, description="passes over the training rows")
    learning_rate: float = Field(2e-4, gt=0, description="peak learning rate; small models want more")
    warmup: float = Field(0.03, ge=0, lt=1, description="share of the steps in which the rate rises; then cosine")
    batch_size: int = Field(16, gt=0, description="sequences in a step")
    questions_per_sequence: int = Field(
        16, gt=0, description="questions about one image that share its tokens in a sequence; 1: plain sequences"
    )
    seed: int = Field(0, description="of the split, the initial weights and the order")
    resume: bool = Field(False, description="go on from the run's last checkpoint")


class EvaluateOptions(_Options):
    """Ask held-out rows of a base and of adapters, in process or of a running service, and compare their answers."""

    adapter: list[str] = Field(
        min_length=1, description="adapter to compare with the base; several are compared. In process: a run too"
    )
    data: str = Field(description="held-out rows, in either form that training takes")
    images: str = Field(description="the folder that the rows' image names are relative to")
    model: str | None = Field(None, description="base checkpoint to ask in process; without it a service is asked")
    store: Path = Field(Path("adapters"), description="in process: the adapter store")
    url: list[str] | None = Field(
        None, description="the service's address; several are compared [http://127.0.0.1:8000]"
    )
    limit: int | None = Field(None, gt=0, description="only the first rows")
    max_tokens: int = Field(64, gt=0, le=4096, description="longest answer, in tokens")
    clients: int = Field(32, gt=0, description="of a service: questions asked at once")
    seed: int = Field(0, description="of the 95% intervals, which are drawn")
    report: str | None = Field(None, description="also write what was found as one HTML page to this path or URL")


class PublishOptions(_Options):
    """Publish a PEFT adapter made elsewhere: convert it, or refuse it by name, and ask it against its base."""

    adapter: Path = Field(description="the directory of PEFT's files, LLaVA's own or transformers' older names too")
    name: Name = Field(description="the adapter's name in the store: what a question's `adapter` will say")
    store: Path = Field(Path("adapters"), description="the adapter store to publish into")
    model: str = Field("models/tiny-llava", description="base checkpoint: a directory, or a Hugging Face id")
    modality: Literal["image", "text", "any"] = Field("any", description="which questions the adapter is meant for")
    max_rank: Rank = Field(64, description="largest rank, as the service's VQA_MAX_LORA_RANK")
    data: str | None = Field(
        None, description="held-out rows to score it by; without them it only has to differ from its base"
    )
    images: str | None = Field(None, description="the folder that the rows' image names are relative to")
    limit: int | None = Field(None, gt=0, description="only the first rows")
    report: str | None = Field(None, description="also write the scores as one HTML page to this path or URL")
