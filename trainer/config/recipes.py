"""Recipes: sets of options for `train`, a YAML file each in trainer/recipes/, whose comments say whose they are."""

import difflib
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from trainer.config.fields import Options
from trainer.errors import OptionError

_FOLDER = Path(__file__).parent.parent / "recipes"


class RecipesOptions(Options):
    """Print the recipes that `train --recipe` knows: options as somebody's study or practice has them."""

    examples: ClassVar[tuple[str, ...]] = (
        "python -m trainer recipes",
        "python -m trainer recipes --name domain",
    )
    name: str | None = Field(
        None, description="one alone, as its file has it: to change, and to train with by --config [all]"
    )


def recipes() -> list[str]:
    """The names that --recipe takes."""
    return sorted(file.stem for file in _FOLDER.glob("*.yaml"))


def recipe(name: str, option: str = "--recipe") -> Path:
    """The file of a recipe; `option` is where its name was given.

    Raises:
        OptionError: there is none of that name.
    """
    if name not in recipes():
        near = difflib.get_close_matches(name, recipes(), 1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise OptionError(f"{option} {name}: no such recipe{meant}; there are {', '.join(recipes())}")
    return _FOLDER / f"{name}.yaml"


def recipe_text(name: str | None) -> str:
    """The text of a recipe's file, or of all of them, each under its name.

    Raises:
        OptionError: there is none of that name.
    """
    if name is not None:
        return recipe(name, "--name").read_text().rstrip()
    return "\n\n".join(f"{each}\n\n{_indented(recipe(each).read_text())}" for each in recipes())


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())
