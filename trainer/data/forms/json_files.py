"""JSON text -> its records: JSON lines, a list, an object around a list, or an object of records by their ids."""

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import Any

from trainer.data import files
from trainer.data.forms import coco, json_values, sets, vqa_pairs
from trainer.data.forms.keys import FIELD, fold
from trainer.data.forms.reading import Reading
from trainer.data.forms.recognised import FIRST, Recognised, Record
from trainer.data.forms.text import Text
from trainer.errors import DataError

# Members of one JSON object that hold the records in a list.
_LISTS = frozenset({"data", "rows", "records", "examples", "items", "samples", "questions", "annotations"})


def recognise(found: Text, images: str, how: Reading) -> Recognised:
    """The form of a JSON file; one that does not begin as JSON is read as JSON lines, each of which is then a fault.

    Raises:
        DataError: it is not of the form that --form names, or of one that holds no rows.
    """
    first = found.head.lstrip()[:1]
    if first == "[":
        return _of_records(found, how, "a JSON list", lambda: _listed(found))
    if first != "{":
        return _lines(found, how)
    line, _, rest = found.head.lstrip().partition("\n")
    one = _parsed(line)
    if isinstance(one, dict) and (rest.strip() or _is_record(found)):
        return _lines(found, how)
    members = _head_members(found)
    if vqa_pairs.matches(members):
        return vqa_pairs.recognise(found, members, images, how)
    if coco.matches(members):
        return coco.recognise(found)
    if _is_columns(members):
        raise DataError(
            [f"{found.url}: holds columns and no rows: write them by pandas' to_json(orient='records', lines=True)"]
        )
    if _holds_records(found):
        return _of_records(found, how, "one JSON object of records", lambda: _members(found))
    if one is None and _parsed(line.rstrip().removesuffix(",")) is None and line.strip() != "{":
        return _lines(found, how)
    found = replace(found, mended=(*found.mended, "file: records over several lines, or with commas between them"))
    return _of_records(found, how, "JSON records behind one another", lambda: _listed(found))


def _lines(found: Text, how: Reading) -> Recognised:
    """JSON lines; what each holds is judged when it is read."""
    first = [value for line in found.head.split("\n")[:FIRST] if isinstance(value := _parsed(line), dict)]
    return _named(found, how, "JSON lines", first, lambda: _listed(found), lines=found.plain)


def _of_records(found: Text, how: Reading, what: str, records: Callable[[], Iterator[Record]]) -> Recognised:
    first = [record.value for record in _of_head(found)]
    return _named(found, how, what, first, records)


def _named(
    found: Text,
    how: Reading,
    what: str,
    first: list[Any],
    records: Callable[[], Iterator[Record]],
    lines: bool = False,
) -> Recognised:
    chosen = sets.chosen(found.url, first, how)
    expand = chosen.expand
    mapping = next((record for record in first if isinstance(record, Mapping)), None)
    evidence = f"{what}, the first has {sets.shown(mapping)}" if mapping is not None else what
    return Recognised(
        form=chosen.form,
        evidence=evidence,
        records=(lambda: expanded(records(), expand)) if expand else records,
        known=chosen.known,
        mended=found.mended,
        lines=lines and not expand,
        convert=chosen.convert,
        category=files.stem(found.url) if chosen.form == "chartqa" else None,
    )


def expanded(records: Iterator[Record], expand: Callable[[Mapping[str, Any]], Iterable[Any]]) -> Iterator[Record]:
    """The records that `expand` makes of each record, numbered anew; what is no mapping is passed on as it is."""
    number = 0
    for record in records:
        held = expand(record.value) if isinstance(record.value, Mapping) else [record.value]
        for each in held:
            number += 1
            yield Record(number, record.where, each)


def _holds_records(found: Text) -> bool:
    """Whether the file is one object around its records: in a list, or each under its id."""
    members = _head_members(found)
    if any(member.key in _LISTS and isinstance(member.value, dict) for member in members):
        return True
    if any(FIELD.get(fold(member.key)) in ("talk", "question", "answer") for member in members):
        return False
    return len(members) > 0 and all(isinstance(member.value, dict) for member in members)


def _is_record(found: Text) -> bool:
    """Whether the file's one object is a record itself."""
    members = _head_members(found)
    return not (_is_columns(members) or _holds_records(found) or vqa_pairs.matches(members) or coco.matches(members))


def _is_columns(members: list[json_values.Member]) -> bool:
    """Whether an object has a field's values under each field, by their numbers, as pandas writes them."""
    values = [each.value for each in members if fold(each.key) in FIELD]
    numbered = [isinstance(value, dict) and value and all(key.isdigit() for key in value) for value in values]
    return len(values) > 1 and all(numbered)


def _head_members(found: Text) -> list[json_values.Member]:
    members: list[json_values.Member] = []
    scanner = json_values.Scanner(io.StringIO(found.head.lstrip("\ufeff")))
    with suppress(json_values.Broken):
        members += islice(scanner.members(), FIRST)
    return members


def _of_head(found: Text) -> Iterator[Record]:
    """The first records, of the file's beginning alone."""
    scanner = json_values.Scanner(io.StringIO(found.head))
    try:
        if _starts_object(found):
            yield from islice(_from_members(scanner), FIRST)
        else:
            yield from (Record(0, "", member.value) for member in islice(scanner.list_or_values(), FIRST))
    except json_values.Broken:
        return


def _starts_object(found: Text) -> bool:
    return found.head.lstrip().startswith("{") and _holds_records(found)


def _listed(found: Text) -> Iterator[Record]:
    with json_values.scanning(found) as scanner:
        for number, member in enumerate(scanner.list_or_values(), start=1):
            yield Record(number, f"{member.line} (record {number})", member.value)


def _members(found: Text) -> Iterator[Record]:
    with json_values.scanning(found) as scanner:
        yield from _from_members(scanner)


def _from_members(scanner: json_values.Scanner) -> Iterator[Record]:
    number = 0
    for member in scanner.members():
        if isinstance(member.value, dict):
            number += 1
            by_id = {} if member.key in _LISTS or "id" in member.value else {"id": member.key}
            yield Record(number, f"{member.line} (record {number})", {**by_id, **member.value})


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
