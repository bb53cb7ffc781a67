"""Options as a YAML file: what a run writes, and what --config reads back as if it had been typed."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from trainer.errors import OptionError

OPTION = "--config"


def write_options(options: BaseModel, file: Path) -> None:
    """Write all options that have a value, those by default too, so that another version's defaults change nothing.

    Raises:
        OSError: the file cannot be written.
    """
    values = options.model_dump(mode="json", exclude={"config", "resume"}, exclude_none=True)
    file.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def read_options(file: Path) -> dict[str, Any]:
    """The options in a file, by their names with underscores.

    Raises:
        OptionError: it cannot be read, or is not a YAML mapping.
    """
    try:
        found = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise OptionError(f"{OPTION} {file}: cannot be read as YAML: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise OptionError(f"{OPTION} {file}: is not a mapping of options, one a line, as in `epochs: 3`")
    return {name.replace("-", "_"): value for name, value in found.items()}


def with_file(arguments: Sequence[str], options: Mapping[str, type[BaseModel]]) -> list[str]:
    """A command line with the options of its --config file put where they would be typed; those typed come first.

    `options` are the options' classes by their commands, as in "base align".

    Raises:
        OptionError: the file cannot be read, or has an option that the command does not.
    """
    commands = list(takewhile(lambda word: not word.startswith("-"), arguments))
    typed = list(arguments[len(commands) :])
    file = _value(typed)
    if file is None or (known := options.get(" ".join(commands))) is None:
        return list(arguments)
    values = read_options(Path(file))
    if unknown := [name for name in values if name not in known.model_fields]:
        raise OptionError(f"{OPTION} {file}: `{' '.join(commands)}` has no option {', '.join(unknown)}")
    given = {word.partition("=")[0].removeprefix("--").removeprefix("no-") for word in typed if word.startswith("--")}
    kept = {name: value for name, value in values.items() if name.replace("_", "-") not in given}
    return [*commands, *(word for name, value in kept.items() for word in _words(name, value)), *typed]


def _value(typed: Sequence[str]) -> str | None:
    for word, behind in pairwise([*typed, ""]):
        if word == OPTION:
            return behind
        if word.startswith(f"{OPTION}="):
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
