"""What `--help` prints, and the error for an unknown option or command, made from the classes that declare options.

A class may group its options by `headings = {"host": "the address", "keys": "who may ask"}`: a heading stands before
the option that is its key, and holds the options up to the next key. It may show `examples`, one command a line.
"""

import difflib
import re
import types
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from textwrap import fill, wrap
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_settings import SettingsError

_WIDTH, _COLUMN = 100, 30
# The first that a type is one of: a bool is an int too.
_WORDS = {bool: "true|false", int: "N", float: "X", str: "TEXT", Path: "PATH"}
_CHOICE = r"invalid choice: '([^']*)'"


def wants_help(arguments: Sequence[str]) -> bool:
    """Whether -h or --help stands anywhere on a command line."""
    return not {"-h", "--help"}.isdisjoint(arguments)


def usage(program: str, options: type[BaseModel], commands: Sequence[str] = (), flags: bool = True) -> str:
    """The help text of a command, ending in a newline; `commands` names a subcommand, as in ("data", "check").

    Names that are no command are left out of account. With `flags`, an option that is true or false is shown as
    `--plan` or `--no-fit`, without as `--plan true`.
    """
    program, options = _found(program, options, commands)
    called = wrap(
        f"usage: {program} {_call(options, flags)}", _WIDTH, subsequent_indent=" " * 7, break_on_hyphens=False
    )
    lines = [*called, "", *_about(options)]
    if own := subcommands(options):
        lines += ["", "commands:", *_table((name, words) for name, (_, words) in own.items())]
        lines += ["", f"`{program} COMMAND --help` says what a command takes."]
    for heading, names in _groups(options):
        rows = ((_option(options, name, flags), _meaning(options.model_fields[name])) for name in names)
        lines += ["", f"{heading}:", *_table(rows)]
    if shown := getattr(options, "examples", ()):
        lines += ["", "examples:", *(f"  {line}" for line in shown)]
    return "\n".join(lines) + "\n"


def unknown(error: SettingsError, program: str, options: type[BaseModel], commands: Sequence[str] = ()) -> str | None:
    """The message for an unknown option or command, with the nearest known one; None where `error` is another error."""
    program, options = _found(program, options, commands)
    names = [_name(name, field) for name, field in options.model_fields.items()]
    for kind, pattern, dashes in (("option", r"unrecognized arguments: --([^\s=]+)", "--"), ("command", _CHOICE, "")):
        if found := re.search(pattern, str(error)):
            near = difflib.get_close_matches(found[1], names, 1, 0.5)
            hint = f"did you mean {dashes}{near[0]}? " if near else ""
            return f"{dashes}{found[1]}: {program} has no such {kind}; {hint}`{program} --help` lists them"
    return None


def _found(program: str, options: type[BaseModel], commands: Sequence[str]) -> tuple[str, type[BaseModel]]:
    """The subcommand that `commands` leads to, up to the first name that is none: how it is called, and its options."""
    for word in commands:
        if (found := subcommands(options).get(word)) is None:
            break
        program, options = f"{program} {word}", found[0]
    return program, options


def subcommands(options: type[BaseModel]) -> dict[str, tuple[type[BaseModel], str]]:
    """The commands of a class whose fields are commands: their names, their classes, and a line about each."""
    found = {}
    for name, field in options.model_fields.items():
        if _is_command(field):
            found[_name(name, field)] = (_bare(field.annotation), field.description or "")
    return found


def _is_command(field: FieldInfo) -> bool:
    return any("SubCommand" in str(each) for each in field.metadata)


def _groups(options: type[BaseModel]) -> Iterator[tuple[str, list[str]]]:
    """Headings and the options below each; what stands before the first option with a heading comes last."""
    headings: dict[str, str] = getattr(options, "headings", {})
    groups: dict[str, list[str]] = {heading: [] for heading in (*headings.values(), "options")}
    heading = "options"
    for name, field in options.model_fields.items():
        if not _is_command(field):
            heading = headings.get(name, heading)
            groups[heading].append(name)
    return ((heading, names) for heading, names in groups.items() if names)


def _call(options: type[BaseModel], flags: bool) -> str:
    if subcommands(options):
        return "COMMAND ..."
    needed = [_option(options, name, flags) for name, field in options.model_fields.items() if field.is_required()]
    return " ".join([*needed, "[OPTION ...]"])


def _about(options: type[BaseModel]) -> list[str]:
    paragraphs = re.split(r"\n\s*\n", options.__doc__ or "")
    return "\n\n".join(fill(" ".join(each.split()), _WIDTH) for each in paragraphs).splitlines()


def _option(options: type[BaseModel], name: str, flags: bool) -> str:
    field = options.model_fields[name]
    if flags and field.annotation is bool:
        return f"--no-{_name(name, field)}" if field.default is True else f"--{_name(name, field)}"
    return f"--{_name(name, field)} {_word(field.annotation)}"


def _name(name: str, field: FieldInfo) -> str:
    return (field.alias or name).replace("_", "-")


def _bare(annotation: Any) -> Any:
    """A type without None and without what is annotated to it; of several the first."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        return _bare(next(kind for kind in get_args(annotation) if kind is not type(None)))
    return annotation


def _word(annotation: Any) -> str:
    """A word for what is to be given: N, X, TEXT, PATH, URL, one of a few, several with commas, names with values."""
    kind = _bare(annotation)
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "WORD" if _many(kind) else "|".join(map(str, inner))
    if origin in (list, tuple, Sequence):
        return f"{_word(inner[0])}[,...]"
    if kind is Any:
        return "VALUE"
    if origin is dict and inner[1] is Any:
        return "JSON"
    if origin is dict:
        return f"{_word(inner[0])}={_word(inner[1])}[,...]"
    word = next((word for known, word in _WORDS.items() if isinstance(kind, type) and issubclass(kind, known)), None)
    return word or ("URL" if getattr(kind, "__name__", "").endswith("Url") else "TEXT")


def _many(kind: Any) -> list[str]:
    """The words of a choice that is too long to stand beside its option; none where it is not."""
    choices = list(map(str, get_args(kind))) if get_origin(kind) is Literal else []
    return choices if len("|".join(choices)) > _WIDTH / 2 else []


def _meaning(field: FieldInfo) -> str:
    """The description with the default behind it: what stands in brackets there already tells what comes by default."""
    about, default = field.description or "", field.get_default(call_default_factory=True)
    if choices := _many(_bare(field.annotation)):
        about = f"one of {', '.join(choices)}: {about}"
    if field.is_required():
        return f"{about} (needed)"
    if default in (None, "", (), [], {}) or isinstance(default, bool) or re.search(r"\[[^\]]*\]$", about):
        return about
    return f"{about} [{_plain(default)}]"


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _table(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    for left, right in rows:
        lines = wrap(right, _WIDTH - _COLUMN, break_on_hyphens=False) or [""]
        if len(left) > _COLUMN - 4:
            yield f"  {left}"
            yield from (" " * _COLUMN + line for line in lines)
        else:
            yield f"  {left:<{_COLUMN - 2}}{lines[0]}"
            yield from (" " * _COLUMN + line for line in lines[1:])
