"""Types and bases that options of several commands share."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

# The largest rank that a service can be set to allow.
LARGEST_RANK = 512
# The ranks vLLM has kernels for; a command line gives text, which a Literal of numbers would not take.
Rank = Annotated[Literal[8, 16, 32, 64, 128, 256], BeforeValidator(int)]


def _expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is not a regular expression: {error}") from error
    return text


Expression = Annotated[str, AfterValidator(_expression)]
# What an adapter may change of a layer; the engine serves LoRA on all of these and on nothing else.
Linear = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LINEARS: tuple[Linear, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# What decides whether an adapter is better than its base: trainer/evaluation/gate.py.
Gate = Literal["auto", "loss", "normalised", "exact", "anls", "relaxed", "f1", "vqa", "preference"]
GATE = (
    "what has to be better than the base's on held-out rows, or nothing is published: the loss of the right answers, or"
    " the mean of a metric over the answers given, or of pairs the share whose chosen answer is the likelier; auto:"
    " preference where rows are pairs, with answers that are no worse; loss where answers are free text; else"
    " normalised"
)
BlindRows = Annotated[int, Field(ge=0)]
BLIND_ROWS = (
    "rows, at most, that the adapter is asked again with a grey picture in place of the image, to find out whether"
    " its answers depend on the image; 0: none"
)
Canary = Annotated[float, Field(gt=0, le=1)] | None
CANARY = (
    "publish as the alias canary with this share of the questions, 0.2 for a fifth, and leave stable where it is"
    " [as stable, as the first version of a name always is]"
)
MAX_TOKENS = "longest answer that is scored, in tokens [the longest held-out answer]"
MaxTokens = Annotated[int, Field(gt=0, le=4096)]
# What a command line gives once becomes a list of one.
Listed = Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]
# The range of seeds that PyTorch's, NumPy's and Python's random generators all take.
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Options(BaseModel):
    """Options that cannot be changed, and of which none is unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Configured(Options):
    """Options of a command that reads a file of options."""

    config: Path | None = Field(
        None,
        description="a YAML file of options by their names, as every run leaves one in options.yaml; those given beside"
        " it on the command line come first",
    )
