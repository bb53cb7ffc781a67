"""Which form a file or folder has: told from its beginning, and by --form where that is given."""

import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

from trainer.data import files
from trainer.data.forms import huggingface, json_values, sets, tables, text
from trainer.data.forms.keys import FIELD, fold
from trainer.data.forms.reading import Form, Reading
from trainer.data.forms.recognised import FIRST, Recognised, Record
from trainer.data.forms.text import Text
from trainer.errors import DataError

# Members of one JSON object that hold the records in a list.
_LISTS = frozenset({"data", "rows", "records", "examples", "items", "samples", "questions", "annotations"})


def recognise(source: str, how: Reading) -> Recognised:
    """The form of a set.

    Raises:
        DataError: the file cannot be read, is of no kind that holds rows, or is not of the form that --form names.
    """
    path = files.local(source)
    if path and path.is_dir():
        return _of_folder(source, path)
    if how.form == "huggingface" or source.endswith(".parquet"):
        return huggingface.recognise(source)
    return _of_text(text.look(source), how)


def _of_folder(source: str, path: Path) -> Recognised:
    if huggingface.is_saved(path) or huggingface.parquets(path):
        return huggingface.recognise(source)
    raise DataError([f"{source}: is a folder that holds no data set: name the file of its rows"])


def _of_text(found: Text, how: Reading) -> Recognised:
    first = found.head.lstrip()[:1]
    if first == "<":
        raise DataError([f"{found.url}: is HTML or XML and no rows: a download that failed looks like this"])
    if how.form == "csv" or (first not in ("[", "{") and tables.is_table(found.head, how.columns)):
        return tables.recognise(found, how)
    if first == "[":
        return _of_records(found, how, "a JSON list", lambda: _listed(found))
    if first != "{":
        return _lines(found, how)
    line, _, rest = found.head.lstrip().partition("\n")
    one = _parsed(line)
    if isinstance(one, dict) and (rest.strip() or not _holds_records(found)):
        return _lines(found, how)
    if _holds_records(found):
        return _of_records(found, how, "one JSON object of records", lambda: _members(found))
    if one is None and _parsed(line.rstrip().removesuffix(",")) is None and line.strip() != "{":
        return _lines(found, how)
    return _of_records(found, how, "JSON records behind one another", lambda: _listed(found))


def _lines(found: Text, how: Reading) -> Recognised:
    """JSON lines; what each holds is judged when it is read."""
    first = [value for line in found.head.splitlines()[:FIRST] if isinstance(value := _parsed(line), dict)]
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
    told = sets.told(first)
    form: Form = told.form if told else "flat"
    if how.form not in ("auto", form):
        asked = sets.named(how.form)
        if how.form != "flat" and not (asked and any(_has(asked, record) for record in first)):
            raise DataError([f"{found.url}: is not of --form {how.form}, it looks like {form}: leave --form out"])
        told, form = asked, how.form
    mapping = next((record for record in first if isinstance(record, Mapping)), None)
    evidence = f"{what}, the first has {sets.shown(mapping)}" if mapping is not None else what
    return Recognised(
        form=form,
        evidence=evidence,
        records=records,
        known=told.known if told else frozenset(),
        mended=found.mended,
        lines=lines,
        convert=told.convert if told else None,
        category=files.stem(found.url) if form == "chartqa" else None,
    )


def _has(asked: sets.Set, record: Any) -> bool:
    return isinstance(record, Mapping) and asked.needs <= {fold(key) for key in record}


def _holds_records(found: Text) -> bool:
    members = _head_members(found)
    if any(member.key in _LISTS and isinstance(member.value, dict) for member in members):
        return True
    if any(FIELD.get(fold(member.key)) in ("talk", "question", "answer") for member in members):
        return False  # a record itself
    return len(members) > 0 and all(isinstance(member.value, dict) for member in members)


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
    with _scanning(found) as scanner:
        for number, member in enumerate(scanner.list_or_values(), start=1):
            yield Record(number, f"{member.line} (record {number})", member.value)


def _members(found: Text) -> Iterator[Record]:
    with _scanning(found) as scanner:
        yield from _from_members(scanner)


def _from_members(scanner: json_values.Scanner) -> Iterator[Record]:
    number = 0
    for member in scanner.members():
        if isinstance(member.value, dict):
            number += 1
            by_id = {} if member.key in _LISTS or "id" in member.value else {"id": member.key}
            yield Record(number, f"{member.line} (record {number})", {**by_id, **member.value})


@contextmanager
def _scanning(found: Text) -> Iterator[json_values.Scanner]:
    """A scanner over the whole file; text that is not JSON becomes the error that names its line."""
    with found.opened() as file:
        try:
            yield json_values.Scanner(file)
        except json_values.Broken as error:
            raise DataError([f"{found.url}:{error.line}: not JSON: {error}"]) from error


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
