"""Which key of a record holds what: the names that data sets and tools give to a row's fields."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from trainer.data.faults import Notes
from trainer.data.forms.reading import Reading


@lru_cache(maxsize=4096)
def fold(key: str) -> str:
    """A key without case, spaces and marks: "Image Path", "image_path" and "imagePath" are one."""
    return re.sub(r"[\W_]+", "", key.casefold())


# Every name of a field, folded, the surest first: where a record has several the first is taken, see `_one`.
NAMES: dict[str, tuple[str, ...]] = {
    "id": ("id", "questionid", "qid", "uid", "sampleid", "rowid", "qaid"),
    "image": (
        *("image", "images", "imagepath", "imgpath", "imagefile", "imagefilename", "imagename", "imgname", "img"),
        *("filename", "filepath", "file", "picture", "pictures", "photo", "imageurl", "imageurls", "imgs"),
        *("imageid", "imgid"),
    ),
    "category": ("category", "questiontype", "questiontypes", "contenttype", "subject", "task", "type"),
    "groups": ("countedin",),
    "question": ("question", "query", "prompt", "instruction", "prefix", "problem", "text"),
    "answer": (
        *("answer", "multiplechoiceanswer", "label", "labels", "response", "completion", "output", "suffix", "target"),
        "chosen",
    ),
    "answers": ("answers", "directanswers", "allanswers"),
    "rejected": ("rejected", "rejectedresponse"),
    "talk": ("conversations", "messages", "conversation", "texts"),
    "system": ("system",),
    "history": ("history",),
    "input": ("input",),
    "caption": ("caption",),
}
# Names that often hold something else than the field: beside a surer name of it they are passed over, and no fault.
UNSURE = frozenset({"imageid", "imgid", "imageurl", "imageurls", "text", "type", "subject", "task", "questionid"})
# Keys that change nothing in what is learnt, and need not be understood.
PLAIN = frozenset(
    {
        *("", "index", "idx", "unnamed0", "width", "height", "imagewidth", "imageheight", "source", "dataset"),
        *(
            "datasetname",
            "datasetid",
            "split",
            "setname",
            "license",
            "url",
            "flickrurl",
            "cocourl",
            "model",
            "language",
        ),
        *("lang", "qlang", "answertype", "answerconfidence", "confidence", "difficulty", "version", "createdat"),
        *("updatedat", "annotator", "annotationid", "leadtime", "docid", "isbalanced", "imageid", "imgid"),
    }
)
FIELD = {name: field for field, names in NAMES.items() for name in names}


@dataclass(frozen=True, slots=True)
class Found:
    """The key that holds a field, as the record writes it, and its value."""

    key: str
    value: Any


def fields(record: Mapping[str, Any], how: Reading, known: frozenset[str], notes: Notes) -> dict[str, Found]:
    """Each field of a row that a record has; a key that nobody understands is a fault.

    `known` are folded keys that the record's form has besides and that change nothing.
    """
    named = {key: field for field, key in how.columns.items()}
    found: dict[str, list[tuple[int, Found]]] = {}
    for key, value in record.items():
        folded = fold(key)
        if folded == "conversations" and value is None:
            notes.fault(f"{key} is not a list of human and gpt turns")
        if value is None or key in how.ignore or (folded in known and key not in named):
            continue
        if key in named or folded in FIELD:
            field = named.get(key) or FIELD[folded]
            rank = -1 if key in named else NAMES[field].index(folded)
            found.setdefault(field, []).append((rank, Found(key, value)))
        elif folded not in PLAIN:
            notes.fault(f"key {key!r} is not understood: say --columns FIELD={key}, or --ignore {key} to go without it")
    return {field: _one(field, sorted(places, key=lambda each: each[0]), notes) for field, places in found.items()}


def _one(field: str, places: list[tuple[int, Found]], notes: Notes) -> Found:
    """The surest of the keys that hold a field; another that differs is a fault, but for an id and those of UNSURE."""
    (rank, first), *others = places
    for _, other in others:
        if rank >= 0 and fold(other.key) not in UNSURE and other.value != first.value and field != "id":
            notes.fault(f"keys {first.key!r} and {other.key!r} both hold the {field}: --ignore one of them")
    return first
