"""Options of `sweep`: those of `train`, and which of them are tried in which values."""

import difflib
from collections.abc import Sequence
from itertools import product
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from trainer.config.training import TrainOptions
from trainer.errors import OptionError

# The most trainings of one sweep: more are probably a mistake in --over.
MOST = 200
# Options that are the same for all trainings of a sweep, or that the sweep sets.
_SHARED = ("name", "store", "output", "model", "data", "images", "eval_data", "over", "seeds", "at_once", "seed")


def _rejoined(words: Any) -> Any:
    """Join what the command line split at commas: a word without "=" belongs to the values of the one before it."""
    found: list[str] = []
    for word in [words] if isinstance(words, str) else words:
        if found and "=" not in word:
            found[-1] += f",{word}"
        else:
            found.append(word)
    return found


class SweepOptions(TrainOptions):
    """Train once for each combination of settings on the same rows, and report which differences are real."""

    headings: ClassVar[dict[str, str]] = {"over": "what is compared", **TrainOptions.headings}
    examples: ClassVar[tuple[str, ...]] = (
        "python -m trainer sweep --name study --over rank=8,64 --seeds 3 --data rows.jsonl --eval-data held-out.jsonl",
    )
    over: Annotated[list[str], BeforeValidator(_rejoined)] = Field(
        min_length=1,
        description="an option of `train` and the values it is tried in, as rank=8,16,64; given several times, every"
        " combination is trained",
    )
    seeds: int = Field(1, gt=0, description="trainings of each combination, which differ by --seed")
    at_once: int = Field(
        1, gt=0, description="trainings side by side, each on a GPU of its own; on a CPU they take each other's time"
    )

    @model_validator(mode="after")
    def _held_out(self) -> Self:
        if self.eval_data is None:
            raise ValueError("--eval-data: is needed, so that all are asked the same rows; `data split` parts a set")
        return self


def combinations(options: SweepOptions) -> list[dict[str, str]]:
    """Each combination of values, as text by the option's name, those of the last --over changing first.

    Raises:
        OptionError: no option of that name, one that all share, no values, or too many combinations.
    """
    tried = dict(_tried(text) for text in options.over)
    found = [dict(zip(tried, values, strict=True)) for values in product(*tried.values())]
    if len(found) * options.seeds > MOST:
        raise OptionError(f"--over: {len(found)} combinations of {options.seeds} seeds are over {MOST} trainings")
    return found


def training(options: SweepOptions, values: dict[str, str], **kept: object) -> TrainOptions:
    """The options of one training; `kept` are its name, seed, output and store.

    Raises:
        OptionError: a value that the option does not take.
    """
    shared = {name: getattr(options, name) for name in TrainOptions.model_fields if name in options.model_fields_set}
    given: dict[str, Any] = {name.replace("-", "_"): value for name, value in values.items()}
    try:
        return TrainOptions(**{**shared, "plan": False, "resume": False, **given, **kept})
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        named = "--" + str(fault["loc"][0]).replace("_", "-") if fault["loc"] else ", ".join(options.over)
        said = fault["msg"].removeprefix("Value error, ")
        raise OptionError(f"--over {', '.join(f'{k}={v}' for k, v in values.items())}: {named}: {said}") from error


def _tried(text: str) -> tuple[str, Sequence[str]]:
    name, _, values = text.partition("=")
    known = [field.replace("_", "-") for field in TrainOptions.model_fields if field not in _SHARED]
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        meant = f": did you mean {near[0]}?" if near else ""
        raise OptionError(f"--over {text}: {name!r} is no option that trainings may differ in{meant}")
    each = [value.strip() for value in values.split(",") if value.strip()]
    if not each or len(set(each)) < len(each):
        raise OptionError(f"--over {text}: give values once each with commas between, as {name}=1,2")
    return name, each
