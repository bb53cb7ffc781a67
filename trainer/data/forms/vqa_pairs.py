"""VQAv2's form, which OK-VQA and others have too: a file of questions, and a file of annotations that answers them.

The answers are held in memory by their question's number, VQAv2's 443,757 in about 200 MB; the questions are streamed.
"""

import io
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

from trainer.data import files
from trainer.data.forms import json_values, places, text
from trainer.data.forms.json_values import Member
from trainer.data.forms.reading import Reading
from trainer.data.forms.recognised import FIRST, Recognised, Record
from trainer.data.forms.text import Text
from trainer.errors import DataError

QUESTIONS, ANNOTATIONS = "questions", "annotations"
_OTHER = {QUESTIONS: ANNOTATIONS, ANNOTATIONS: QUESTIONS}
_SPLIT = re.compile(r"train\d*|val\d*|test(?:-dev)?\d*|mscoco|abstract")


def matches(members: list[Member]) -> bool:
    """Whether the members of an object are VQAv2's questions without answers, or annotations without questions."""
    return _kind(members) is not None


def _kind(members: list[Member]) -> str | None:
    for member in members:
        value = member.value
        if member.key not in _OTHER or not isinstance(value, dict) or "question_id" not in value:
            continue
        if member.key == QUESTIONS and "question" in value and not {"answer", "answers"} & set(value):
            return QUESTIONS
        if member.key == ANNOTATIONS and "question" not in value and {"answer", "answers"} & set(value):
            return ANNOTATIONS
    return None


def recognise(found: Text, members: list[Member], images: str, how: Reading) -> Recognised:
    """The pair that a file of questions or of annotations belongs to.

    Raises:
        DataError: the other file of the pair is not beside it, or several could be it.
    """
    kind = _kind(members) or QUESTIONS
    other = how.annotations or _beside(found.url, _OTHER[kind])
    asked, answered = (found.url, other) if kind == QUESTIONS else (other, found.url)
    asking = text.detect(asked)
    first = next((each.value for each in members if isinstance(each.value, dict) and "image_id" in each.value), {})
    facts = {"year": _year(asking, asked), "id": first.get("image_id", 0)}
    pattern = places.layout(images, places.COCO, facts) if isinstance(facts["id"], int) and images else "{id}"
    example = pattern.format(**facts)
    return Recognised(
        form="vqa",
        evidence=f"questions of {_base(asked)} with the annotations of {_base(answered)}, images as {example}",
        records=lambda: _records(asking, answered, pattern, str(facts["year"])),
        mended=found.mended,
    )


def _records(asking: Text, answered: str, pattern: str, year: str) -> Iterator[Record]:
    answers = dict(_answers(answered))
    for number, member in enumerate(json_values.under(asking, QUESTIONS), start=1):
        where = f"{member.line} (record {number})"
        question = member.value
        if not isinstance(question, dict):
            yield Record(number, where, question)
            continue
        id_, image = question.get("question_id"), question.get("image_id")
        record = {"id": id_, "question": question.get("question"), "image": image}
        if isinstance(image, int):
            record["image"] = pattern.format(id=image, year=year)
        elif question.get("image"):
            record["image"] = question["image"]
        category, best, given = answers.get(id_, (None, None, ()))
        yield Record(number, where, {**record, "category": category, "answer": best, "answers": list(given) or None})


def _answers(url: str) -> Iterator[tuple[Any, tuple[str | None, str | None, tuple[str, ...]]]]:
    """Of each annotation its question's number, the question's type, the chosen answer, and all that were given."""
    for member in json_values.under(text.detect(url), ANNOTATIONS):
        value = member.value
        if not isinstance(value, dict):
            continue
        answers = value.get("answers")
        given = [each.get("answer") if isinstance(each, dict) else each for each in answers or ()]
        best = value.get("multiple_choice_answer") or value.get("answer")
        kind = value.get("question_type")
        yield (
            value.get("question_id"),
            (
                sys.intern(kind) if isinstance(kind, str) else None,
                sys.intern(best) if isinstance(best, str) else None,
                tuple(sys.intern(each) for each in given if isinstance(each, str)),
            ),
        )


def _beside(url: str, kind: str) -> str:
    """The file beside another that holds the other half of the pair."""
    folder, own = url.rpartition("/")[0] or ".", _base(url)
    named = [name for name in files.names(folder) if name.endswith(".json") and name != own]
    same = [name for name in named if set(_SPLIT.findall(name)) == set(_SPLIT.findall(own))]
    fits = [url for name in same if _kind(_head(url := f"{folder}/{name}")) == kind]
    if len(fits) == 1:
        return fits[0]
    what = "answers" if kind == ANNOTATIONS else "questions"
    why = f"{len(fits)} files beside it could be" if fits else "no file beside it is"
    raise DataError([f"{url}: is half of a set of VQAv2's form, and {why} its {what}: name that file by --annotations"])


def _head(url: str) -> list[Member]:
    members: list[Member] = []
    with suppress(json_values.Broken, DataError):
        members += islice(json_values.Scanner(io.StringIO(text.detect(url).head)).members(), FIRST)
    return members


def _year(asking: Text, url: str) -> str:
    """COCO's name of the split, train2014 say: the file says it, or its name does."""
    said = re.search(r'"data_subtype"\s*:\s*"(\w+)"', asking.head) or re.search(
        r"((?:train|val|test)\d{4})", _base(url)
    )
    return said[1] if said else "train2014"


def _base(url: str) -> str:
    return url.rpartition("/")[2]
