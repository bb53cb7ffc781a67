"""Texts, answers and names of images out of a record's values, whatever type they were written in."""

import base64
import binascii
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from typing import Any

from service.text import ANSWER_ENDS
from trainer.data.faults import Notes

# A picture is the name of a file, or the bytes of one.
Picture = str | bytes
_BROKEN = re.compile("[\0\ud800-\udfff]")
# How Python writes a list or an object of texts, which pandas puts into a table's cell.
_PYTHON = re.compile(r"[\[{]+\s*'.*[\]}]$", re.DOTALL)
# The most right answers to one question, and their characters together: VQA has ten; a faulty file must not fill
# memory.
MOST_ANSWERS, MOST_CHARACTERS = 100, 100_000
# Keys of an object that stands for one answer, or for one picture.
_ANSWER = ("answer", "text", "value", "raw_answer")
_FILE = ("path", "file_name", "filename", "url", "image", "name")


def kind(value: Any) -> str:
    """What a JSON value is, in words."""
    names = {dict: "an object", list: "a list", str: "text", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null" if value is None else f"a {type(value).__name__}")


def text(value: Any, field: str, where: str, notes: Notes) -> str:
    """`value` if it is a text; what is wrong with it is a fault of the field, and what is no text becomes ""."""
    if value is None or value == "":
        notes.fault(f"field {field!r}{where} is missing or empty")
        return ""
    if not isinstance(value, str):
        notes.fault(f"field {field!r}{where} is {kind(value)}, not text: {{}}", f"{value!r:.80}")
        return ""
    if not value.strip():
        notes.fault(f"field {field!r}{where} is missing or empty")
    elif not any(_visible(character) for character in value):
        notes.fault(f"field {field!r}{where} has no visible character")
    if broken(value):
        notes.fault(f"field {field!r}{where} holds a NUL or half a surrogate pair: save it as valid Unicode")
    return value


def answer(value: Any, field: str, where: str, notes: Notes) -> str:
    """An answer; numbers and booleans are written as JSON does, an end token behind it is taken off."""
    if isinstance(value, Mapping) and (inner := _inner(value, _ANSWER)) is not None:
        notes.mend("answers: taken out of an object")
        value = inner
    if isinstance(value, float) and not math.isfinite(value):
        notes.fault(f"field {field!r}{where} is NaN or infinite, which is no answer")
        return ""
    if isinstance(value, bool | int | float):
        notes.mend(f"answers: {'booleans' if isinstance(value, bool) else 'numbers'} written as text")
        value = json.dumps(value)
    found = text(value, field, where, notes).strip()
    if _PYTHON.match(found):
        notes.mend("answers: lists or objects as Python writes them, taken as the text they are")
    for end in ANSWER_ENDS:
        if found.endswith(end) and len(found) > len(end) and "<s>" not in found:
            notes.mend("answers: a token behind them that ends an answer taken off")
            found = found.removesuffix(end).strip()
        if end in found and "<s>" not in found:
            notes.fault(
                f"field {field!r}{where} holds {end}, which ends an answer: cut it there, or write it otherwise"
            )
    return found


def answers(value: Any, field: str, notes: Notes) -> tuple[str, ...]:
    """The answers of a list; of objects their texts, and nulls left out.

    Over `MOST_ANSWERS` or `MOST_CHARACTERS` together are a fault.
    """
    if isinstance(value, str) or not isinstance(value, list):
        return (answer(value, field, "", notes),)
    given = [each for each in value if each is not None]
    if len(given) < len(value):
        notes.mend("answers: null left out of a list")
    if not given:
        notes.fault(f"field {field!r} is missing or empty")
        return ()
    characters = sum(len(each) for each in given if isinstance(each, str))
    if len(given) > MOST_ANSWERS or (len(given) > 1 and characters > MOST_CHARACTERS):
        notes.fault(
            f"field {field!r} has {{}}, and a question may have {MOST_ANSWERS} right answers of {MOST_CHARACTERS:,}"
            " characters together: keep those that count",
            f"{len(given):,} answers of {characters:,} characters",
        )
        return ()
    if len(value) == 1 and not isinstance(given[0], Mapping):
        notes.mend("answers: a list of one")
    own = Notes([], [])
    found = tuple(answer(each, field, "", own) for each in given)
    notes.faults += own.faults
    notes.mended += [rule for rule in dict.fromkeys(own.mended) if rule != "answers: taken out of an object"]
    return found


def most_given(found: tuple[str, ...]) -> str:
    """The answer that most gave, of several as common the first."""
    return Counter(found).most_common(1)[0][0]


def pictures(value: Any, key: str, notes: Notes) -> tuple[Picture, ...]:
    """The pictures that a value names or holds, in order; none is a fault."""
    if isinstance(value, list):
        if not value:
            notes.fault(f"{key} is an empty list: a row of text alone has no such key")
        return tuple(picture for each in value for picture in pictures(each, key, notes))
    if isinstance(value, Mapping):
        if isinstance(held := value.get("bytes"), bytes | str) and held:
            return (held,) if isinstance(held, bytes) else _decoded(held, key, notes)
        if isinstance(inner := _inner(value, _FILE), str):
            notes.mend(f"paths: taken out of an object under {key!r}")
            return pictures(inner, key, notes)
    if isinstance(value, bytes) and value:
        return (value,)
    if isinstance(value, str) and value.startswith("data:"):
        return _decoded(value.partition(",")[2], key, notes)
    if isinstance(value, str) and value:
        return (value,)
    notes.fault(f"{key} {{}} is not a file's name", f"{value!r:.100}")
    return ()


def _decoded(coded: str, key: str, notes: Notes) -> tuple[Picture, ...]:
    try:
        return (base64.b64decode(coded, validate=True),)
    except (binascii.Error, ValueError):
        notes.fault(f"{key} holds a picture that is not base64")
        return ()


def _inner(value: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    return next((value[key] for key in keys if value.get(key) is not None), None)


def _visible(character: str) -> bool:
    return unicodedata.category(character)[0] not in "CZ"


def broken(found: str) -> bool:
    """Whether a text has a NUL or half a surrogate pair, which no tokenizer takes and the service refuses."""
    return bool(_BROKEN.search(found))
