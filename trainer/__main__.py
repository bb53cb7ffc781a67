"""The command line: `python -m trainer COMMAND --help` explains each. Options are in config/."""

import json
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field, ValidationError
from pydantic_settings import BaseSettings, CliApp, CliSubCommand, SettingsConfigDict, SettingsError, get_subcommand

from service import usage
from service.adapters.aliases import NAME
from service.errors import ServiceError
from trainer.adapter.unserved_options import refuse_options
from trainer.config.checkpoints import MergeOptions, QuantizeOptions
from trainer.config.data import DataOptions
from trainer.config.evaluation import CalibrateOptions, EvaluateOptions, PublishOptions
from trainer.config.file import with_file
from trainer.config.recipes import RecipesOptions, recipe_text
from trainer.config.store import CollectOptions, StoreOptions
from trainer.config.sweep import SweepOptions
from trainer.config.training import AlignOptions, BaseOptions, StageOptions, TrainOptions, TuneOptions
from trainer.errors import TrainerError, machine_failure, missing_package

if TYPE_CHECKING:
    from trainer.evaluation.result import Evaluation


class Trainer(BaseSettings):
    """Make a LoRA adapter of a folder of images with questions and answers, and what belongs to it."""

    model_config = SettingsConfigDict(
        frozen=True,
        env_prefix="MANYLENS_",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_parse_none_str="None",
        cli_exit_on_error=False,
    )

    train: CliSubCommand[TrainOptions] = Field(description="train an adapter, score it and publish it")
    base: CliSubCommand[BaseOptions] = Field(description="train a base checkpoint, in LLaVA's two stages")
    sweep: CliSubCommand[SweepOptions] = Field(description="train in several settings and compare what they learn")
    recipes: CliSubCommand[RecipesOptions] = Field(description="print the sets of options that --recipe knows")
    evaluate: CliSubCommand[EvaluateOptions] = Field(description="compare a base and adapters on held-out rows")
    calibrate: CliSubCommand[CalibrateOptions] = Field(description="learn how often an adapter's confidence is right")
    quantize: CliSubCommand[QuantizeOptions] = Field(description="pack a base to INT4, the form that serves")
    publish: CliSubCommand[PublishOptions] = Field(description="take in a PEFT adapter made elsewhere")
    merge: CliSubCommand[MergeOptions] = Field(description="write a checkpoint with an adapter in its weights")
    store: CliSubCommand[StoreOptions] = Field(description="look after an adapter store")
    data: CliSubCommand[DataOptions] = Field(description="check, import, clean, split and draw rows")


PROGRAM = "python -m trainer"
# Words that have commands below them: given alone they print these, as no word does.
_GROUPS: tuple[list[str], ...] = ([], ["base"], ["store"], ["data"])
# The commands that read a file of options.
_CONFIGURED: dict[str, type[BaseModel]] = {
    "train": TrainOptions,
    "sweep": SweepOptions,
    "base align": AlignOptions,
    "base tune": TuneOptions,
    "evaluate": EvaluateOptions,
    "calibrate": CalibrateOptions,
    "quantize": QuantizeOptions,
    "publish": PublishOptions,
    "merge": MergeOptions,
}


# What pydantic says of an option, in words for who typed it.
_WORDS = {"missing": "is needed"}
# The options that are lists of numbers.
_NUMBERS = ("--weight",)


def main(arguments: list[str] | None = None, program: str = PROGRAM, commands: type[BaseModel] = Trainer) -> int:
    """Run one command; returns the exit status: 0, 1 where the machine failed, 2 where the input did, 130 at Ctrl-C.

    `program` and `commands` are what help calls this program and lists: `manylens` has one command more.
    """
    logging.basicConfig(level="INFO", format="%(message)s")
    arguments = sys.argv[1:] if arguments is None else arguments
    if usage.wants_help(arguments) or arguments in _GROUPS:
        print(usage.usage(program, commands, arguments), end="")
        return 0
    try:
        refuse_options(arguments)
        arguments = with_file(arguments, _CONFIGURED)
        parsed = CliApp.run(Trainer, cli_args=arguments)
        _run(get_subcommand(parsed), arguments)
    except ValidationError as error:
        print("\n".join(_faults(error, arguments)), file=sys.stderr)
        return 2
    except SettingsError as error:
        print(usage.unknown(error, program, commands, arguments) or _unparsed(error, arguments), file=sys.stderr)
        return 2
    except (TrainerError, ServiceError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"\nstopped. {stop}".rstrip(), file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        print(missing_package(error), file=sys.stderr)
        return 1
    except Exception as error:
        if not (said := machine_failure(error)):
            raise
        print(said, file=sys.stderr)
        return 1
    return 0


def _faults(error: ValidationError, arguments: Sequence[str]) -> Iterator[str]:
    commands = len(list(takewhile(lambda word: not word.startswith("-"), arguments)))
    for fault in error.errors(include_url=False):
        words = _WORDS.get(fault["type"], fault["msg"].removeprefix("Value error, "))
        if fault.get("ctx", {}).get("pattern") == f"^{NAME}$":
            words = f"{fault['input']!r} is no name: lower-case letters, digits, '.', '_' and '-', 64 at most"
        if not (names := [str(name) for name in fault["loc"][commands:]]):
            yield words  # of several options, which it names
        else:
            yield f"--{' '.join([names[0].replace('_', '-'), *names[1:]])}: {words}"


def _unparsed(error: SettingsError, arguments: Sequence[str]) -> str:
    """What pydantic-settings says of a list or mapping that it could not make of an option's text."""
    found = re.search(r"error encountered for (?P<name>[\w.]+): (?P<why>.*)", str(error), re.DOTALL)
    if not found:  # said of a whole command where a list of numbers holds something else
        named = ", ".join(option for option in _NUMBERS if any(word.startswith(option) for word in arguments))
        return f"{named}: has to be numbers" if named else str(error)
    option = found["name"].rpartition(".")[2].strip("_").replace("_", "-")
    return f"--{option}: is neither JSON nor name=value pairs or values with commas between them ({found['why']})"


def _run(options: object, arguments: list[str]) -> None:
    """Run the command whose options these are; it is imported here, so that --help does not wait for torch."""
    if isinstance(options, SweepOptions):
        from trainer.commands.sweep import sweep
        from trainer.evaluation.settings import table

        print(table(sweep(options)))
    elif isinstance(options, TrainOptions):
        from trainer.commands.train import train

        train(options, ["python", "-m", "trainer", *arguments])
    elif isinstance(options, BaseOptions | StoreOptions):
        _run(get_subcommand(options), arguments)
    elif isinstance(options, StageOptions):
        from trainer.commands.base import train_base

        train_base(options)
    elif isinstance(options, QuantizeOptions):
        from trainer.commands.quantize import quantize

        if cost := quantize(options):
            _print([cost])
    elif isinstance(options, PublishOptions):
        from trainer.commands.publish import publish

        publish(options, ["python", "-m", "trainer", *arguments])
    elif isinstance(options, MergeOptions):
        from trainer.commands.merge import merge

        merge(options)
    elif not _judge(options):
        _look_after(options)


def _judge(options: object) -> bool:
    """Run a command that asks adapters held-out rows; returns whether `options` are of such a one."""
    if isinstance(options, EvaluateOptions):
        from trainer.commands.evaluate import evaluate

        _print(evaluate(options))
    elif isinstance(options, CalibrateOptions):
        from trainer.commands.calibrate import calibrate

        calibrate(options)
    else:
        return False
    return True


def _look_after(options: object) -> None:
    """Run a command about data, stores or recipes."""
    if isinstance(options, RecipesOptions):
        print(recipe_text(options.name))
    elif isinstance(options, CollectOptions):
        from trainer.commands.collect import collect

        print(collect(options))
    elif isinstance(options, DataOptions):
        from trainer.commands.data import run

        print(run(get_subcommand(options)))


def _print(results: "list[Evaluation]") -> None:
    """A line for programs each, then tables for people."""
    from trainer.evaluation.result import group_table, table

    for result in results:
        print(json.dumps(result.summary()))
    print(table(results))
    if groups := group_table(results):
        print(f"\n{groups}")


if __name__ == "__main__":
    sys.exit(main())
