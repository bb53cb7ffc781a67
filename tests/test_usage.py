"""What --help prints and what is said of options that there are not, for every command of both programs."""

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic_settings import CliApp

from service import usage
from service.command import PROGRAM as SERVICE
from service.command import run
from service.settings import Settings
from trainer.__main__ import PROGRAM, Trainer, main


def commands(options: type[BaseModel] = Trainer, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield words
    for name, (found, _) in usage.subcommands(options).items():
        yield from commands(found, (*words, name))


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_examples_are_commands_that_parse(words: tuple[str, ...]) -> None:
    _, options = usage._found(PROGRAM, Trainer, words)
    for example in getattr(options, "examples", ()):
        assert example.startswith(" ".join([PROGRAM, *words]))
        CliApp.run(Trainer, cli_args=shlex.split(example.removeprefix(PROGRAM)))


def test_the_service_s_examples_parse_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("keys.json").touch()
    for example in Settings.examples:
        CliApp.run(Settings, cli_args=shlex.split(example.removeprefix(SERVICE)))


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_command_says_what_it_does_and_what_each_option_means(words: tuple[str, ...]) -> None:
    text = usage.usage(PROGRAM, Trainer, words)
    assert text.startswith(f"usage: {' '.join([PROGRAM, *words])} ")
    _, options = usage._found(PROGRAM, Trainer, words)
    for name, field in options.model_fields.items():
        assert field.description, f"{' '.join(words)}: {name} has no description"
        assert name.rstrip("_").replace("_", "-") in text
    for python in ("null", "list[", "dict[", "Literal", "--no-no-"):
        assert python not in text
    assert max(map(len, text.splitlines())) <= 120


def test_options_are_grouped_and_examples_follow() -> None:
    text = usage.usage(PROGRAM, Trainer, ["train"])
    text = text[text.index("\nthe adapter:") :]
    assert text.index("--name TEXT") < text.index("\nthe rows:") < text.index("--data TEXT")
    assert "\nexamples:\n  python -m trainer train --name" in text
    assert "peak learning rate; small models want more [0.0002]" in " ".join(text.split())
    assert "--plan " in text
    assert "--plan true" not in text


def test_the_service_s_help_teaches_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')} " in text
    assert "--anonymous true|false" in text
    assert "null" not in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["train", "--learningrate", "1"],
            "--learningrate: python -m trainer train has no such option; did you mean --learn",
        ),
        (["data", "chek"], "chek: python -m trainer data has no such command; did you mean check?"),
        (["frobnicate"], "frobnicate: python -m trainer has no such command; `python -m trainer --help`"),
    ],
)
def test_what_there_is_not_is_named_with_what_is_near(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


def test_the_service_names_the_nearest_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--prot", "1"]) == 2
    assert "--prot: python -m service has no such option; did you mean --port?" in capsys.readouterr().err
