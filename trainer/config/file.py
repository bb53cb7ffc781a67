"""Options as a YAML file: a run writes them, and --config and --recipe read them as if they had been typed."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from trainer.config.recipes import recipe
from trainer.errors import OptionError

OPTION, RECIPE = "--config", "--recipe"


def write_options(options: BaseModel, file: Path) -> None:
    """Write all options that have a value, those by default too, so that another version's defaults change nothing.

    Raises:
        OSError: the file cannot be written.
    """
    values = options.model_dump(mode="json", exclude={"config", "recipe", "resume"}, exclude_none=True)
    file.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def read_options(file: Path, option: str = OPTION) -> dict[str, Any]:
    """The options in a file, by their names with underscores; `option` is the one that named it.

    Raises:
        OptionError: it cannot be read, or is not a YAML mapping.
    """
    try:
        found = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise OptionError(f"{option} {file}: cannot be read as YAML: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise OptionError(f"{option} {file}: is not a mapping of options, one a line, as in `epochs: 3`")
    return {name.replace("-", "_"): value for name, value in found.items()}


def with_file(arguments: Sequence[str], options: Mapping[str, type[BaseModel]]) -> list[str]:
    """A command line with the options of its --config file and of its --recipe put where they would be typed.

    Those typed come first, then the file's, then the recipe's. `options` are the options' classes by their commands, as
    in "base align".

    Raises:
        OptionError: a file cannot be read, or has an option that the command does not; there is no such recipe.
    """
    commands = list(takewhile(lambda word: not word.startswith("-"), arguments))
    typed = list(arguments[len(commands) :])
    if (known := options.get(" ".join(commands))) is None:
        return list(arguments)
    values: dict[str, Any] = {}
    for option, file in _files(typed, known):
        found = read_options(file, option)
        if unknown := [name for name in found if name not in known.model_fields]:
            raise OptionError(f"{option} {file}: `{' '.join(commands)}` has no option {', '.join(unknown)}")
        values = found | values
    given = {word.partition("=")[0].removeprefix("--").removeprefix("no-") for word in typed if word.startswith("--")}
    kept = {name: value for name, value in values.items() if name.replace("_", "-") not in given}
    return [*commands, *(word for name, value in kept.items() for word in _words(name, value)), *typed]


def _files(typed: Sequence[str], known: type[BaseModel]) -> Iterator[tuple[str, Path]]:
    """The files that a command line names, by their options; what the first one holds comes before the second's."""
    if file := _value(typed, OPTION):
        yield OPTION, Path(file)
    if "recipe" in known.model_fields and (name := _value(typed, RECIPE)):
        yield RECIPE, recipe(name)


def _value(typed: Sequence[str], option: str) -> str | None:
    for word, behind in pairwise([*typed, ""]):
        if word == option:
            return behind
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return None


def _words(name: str, value: Any) -> Iterator[str]:
    option = f"--{name.replace('_', '-')}"
    if value is None:
        return
    if isinstance(value, bool):
        yield option if value else option.replace("--", "--no-", 1)
    elif isinstance(value, list | dict):
        yield f"{option}={json.dumps(value)}"
    else:
        yield f"{option}={value}"
