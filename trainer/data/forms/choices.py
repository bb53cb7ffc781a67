"""Lettered choices of a record, of which one is right by its place."""

from typing import Any

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def chosen(given: Any, right: Any) -> tuple[list[str], str | None]:
    """The choices as texts, at most one a letter, and the right one's; None where `right` is the place of none."""
    choices = [str(choice) for choice in given[: len(LETTERS)]] if isinstance(given, list) else []
    return choices, choices[right] if isinstance(right, int) and 0 <= right < len(choices) else None
