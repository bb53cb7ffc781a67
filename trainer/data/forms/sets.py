"""Forms that records show by their keys: the ones of public sets, and those that tools write.

A form has the keys by which it is told (`needs`, folded as keys.fold does), keys of it that change nothing in a row
(`known`), and, where record.py cannot read its records as they are, a function that puts them right.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trainer.data.forms.keys import FIELD, fold
from trainer.data.forms.reading import Form

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
Convert = Callable[[Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Set:
    """How a form of record is told, and what of it matters."""

    form: Form
    needs: frozenset[str]
    known: frozenset[str] = frozenset()
    convert: Convert | None = None


def _keys(words: str) -> frozenset[str]:
    return frozenset(words.split())


def _chartqa(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Several labels are the parts of one answer."""
    label = record.get("label")
    if not isinstance(label, list) or len(label) < 2:
        return record
    return {**record, "label": ", ".join(map(str, label))}


def _scienceqa(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Hint, question and lettered choices become the question, the right choice's text the answer."""
    given, answer = record.get("choices"), record.get("answer")
    choices = [str(choice) for choice in given[: len(LETTERS)]] if isinstance(given, list) else []
    right = choices[answer] if isinstance(answer, int) and 0 <= answer < len(choices) else None
    lettered = " ".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    parts = [record.get("hint"), record.get("question"), lettered]
    found = {
        "id": record.get("id"),
        "category": record.get("subject"),
        "question": "\n".join(part.strip() for part in parts if isinstance(part, str) and part.strip()),
        "answer": right,
    }
    if record.get("image"):
        found["image"] = f"{record.get('split')}/{record.get('id')}/{record['image']}"
    return found


# The first whose needs a record has; flat rows and conversations are what is left.
SETS: tuple[Set, ...] = (
    Set("scienceqa", _keys("question choices answer hint"), convert=_scienceqa),
    Set("chartqa", _keys("imgname query label"), _keys("humanormachine"), _chartqa),
    # What the service keeps of questions and corrections (--capture).
    Set("flat", _keys("request tenant at"), _keys("request tenant at adapter version confidence release said comment")),
    Set("llava", _keys("conversations")),
    Set("messages", _keys("messages")),
    Set("alpaca", _keys("instruction output")),
)


def told(records: Iterable[Any]) -> Set | None:
    """The set whose keys every one of the first records has; None: flat rows, or nothing that is known."""
    keys = [{fold(key) for key in record} for record in records if isinstance(record, Mapping)]
    for each in SETS:
        if keys and all(each.needs <= found for found in keys):
            return each
    return None


def named(form: Form) -> Set | None:
    """The set that goes by a form's name."""
    return next((each for each in SETS if each.form == form), None)


def shown(record: Mapping[str, Any]) -> str:
    """The keys of a record that make a row, for a line of evidence."""
    return ", ".join(key for key in record if fold(key) in FIELD) or "none of the keys of a row"
