"""The command line: `python -m trainer COMMAND --help` teaches each. Options live in config.py."""

import json
import logging
import sys
from itertools import takewhile
from typing import TYPE_CHECKING

from pydantic import ValidationError
from pydantic_settings import BaseSettings, CliApp, CliSubCommand, SettingsConfigDict, get_subcommand

from service.errors import ServiceError
from trainer.config import BaseOptions, EvaluateOptions, PublishOptions, QuantizeOptions, StageOptions, TrainOptions
from trainer.data.config import DataOptions
from trainer.errors import TrainerError
from trainer.unserved import refuse_options

if TYPE_CHECKING:
    from trainer.evaluation import Evaluation


class Trainer(BaseSettings):
    """Grind a lens: a LoRA adapter from a folder of images with questions and answers."""

    model_config = SettingsConfigDict(
        frozen=True,
        env_prefix="MANYLENS_",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_prog_name="python -m trainer",
    )

    train: CliSubCommand[TrainOptions]
    base: CliSubCommand[BaseOptions]
    evaluate: CliSubCommand[EvaluateOptions]
    quantize: CliSubCommand[QuantizeOptions]
    publish: CliSubCommand[PublishOptions]
    data: CliSubCommand[DataOptions]


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    logging.basicConfig(level="INFO", format="%(message)s")
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        refuse_options(arguments)
        parsed = CliApp.run(Trainer, cli_args=arguments or ["--help"])
        _run(get_subcommand(parsed), arguments)
    except ValidationError as error:
        commands = len(list(takewhile(lambda word: not word.startswith("-"), arguments)))
        for fault in error.errors(include_url=False):
            option, *within = map(str, fault["loc"][commands:] or ("",))
            print(f"--{' '.join([option.replace('_', '-'), *within])}: {fault['msg']}", file=sys.stderr)
        return 2
    except (TrainerError, ServiceError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _run(options: object, arguments: list[str]) -> None:
    """Commands import torch and transformers only when they run, so that --help is quick."""
    if isinstance(options, TrainOptions):
        from trainer.train import train

        train(options, ["python", "-m", "trainer", *arguments])
    elif isinstance(options, BaseOptions):
        _run(get_subcommand(options), arguments)
    elif isinstance(options, StageOptions):
        from trainer.base import train_base

        train_base(options)
    elif isinstance(options, EvaluateOptions):
        from trainer.evaluate import evaluate

        _print(evaluate(options))
    elif isinstance(options, QuantizeOptions):
        from trainer.quantize import quantize

        if cost := quantize(options):
            _print([cost])
    elif isinstance(options, PublishOptions):
        from trainer.adopt import adopt

        adopt(options, ["python", "-m", "trainer", *arguments])
    elif isinstance(options, DataOptions):
        from trainer.data.commands import run

        print(run(get_subcommand(options)))


def _print(results: "list[Evaluation]") -> None:
    """A line for programs each, then a table for people."""
    from trainer.evaluation import table

    for result in results:
        print(json.dumps(result.summary()))
    print(table(results))


if __name__ == "__main__":
    sys.exit(main())
