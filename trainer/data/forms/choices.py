"""A record's choices, which are lettered in order, and the right one, which the record gives by its index."""

from typing import Any

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def chosen(given: Any, right: Any) -> tuple[list[str], str | None]:
    """The choices as texts, at most 26, and the right one's text; None where `right` is no index of a choice."""
    choices = [str(choice) for choice in given[: len(LETTERS)]] if isinstance(given, list) else []
    return choices, choices[right] if isinstance(right, int) and 0 <= right < len(choices) else None
