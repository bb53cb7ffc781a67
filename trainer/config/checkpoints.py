"""Options of `quantize` and `merge`, which both write a checkpoint."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from trainer.config.fields import Configured, Seed
from trainer.config.reading import ReadingOptions


class QuantizeOptions(Configured, ReadingOptions):
    """Pack a base's language model to INT4 (W4A16), the form that the service runs, and count what it costs."""

    examples: ClassVar[tuple[str, ...]] = (
        "python -m trainer quantize --model llava-hf/llava-1.5-7b-hf --output models/llava-int4",
    )
    model: str = Field(description="base checkpoint to pack: a directory, or a Hugging Face id")
    output: Path = Field(description="a new directory for the packed checkpoint")
    data: str | None = Field(
        None, description="rows to fit the packing to (GPTQ), and to count its cost on; without: data-free rounding"
    )
    images: str | None = Field(None, description="the folder that the rows' image names are relative to")
    fit: bool = Field(
        True, description="fit the packing to --data; --no-fit: data-free, and the rows only count its cost"
    )
    samples: int = Field(512, gt=0, description="rows that GPTQ sees")
    holdout: float = Field(0.1, gt=0, lt=1, description="share of the images kept apart to count the cost on")
    group_size: Annotated[Literal[32, 64, 128], BeforeValidator(int)] = Field(
        128, description="weights that share a scale; every linear's input size must be a multiple"
    )
    seed: Seed = Field(0, description="of the split")


class MergeOptions(Configured):
    """Add an adapter into its base's weights: a checkpoint that answers as both do, for tools that take no LoRA."""

    examples: ClassVar[tuple[str, ...]] = (
        "python -m trainer merge --adapter meters --model models/tiny-llava --output models/merged",
    )
    adapter: str = Field(description="an adapter of the store, a run, or a directory of PEFT's files")
    model: str = Field(description="base checkpoint, not INT4: a directory, or a Hugging Face id")
    output: Path = Field(description="a new directory for the merged checkpoint")
    store: Path = Field(Path("adapters"), description="the adapter store")
