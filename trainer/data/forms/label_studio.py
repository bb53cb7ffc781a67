"""Label Studio's JSON export: a task's data, and what annotators said of it; the answers of several are all kept."""

from collections.abc import Mapping
from typing import Any

# Folded keys of a task that change nothing in a row.
KNOWN = frozenset(
    {
        *("drafts", "predictions", "meta", "innerid", "totalannotations", "cancelledannotations", "totalpredictions"),
        *("commentcount", "unresolvedcommentcount", "lastcommentupdatedat", "project", "updatedby", "commentauthors"),
        *("fileupload", "allowskip", "precomputedagreement", "agreement"),
    }
)
# Types of a result that say something in words, and where in its value the words stand.
_WORDS = {"textarea": "text", "choices": "choices", "rating": "rating", "number": "number"}


def convert(task: Mapping[str, Any]) -> Mapping[str, Any]:
    """A task as a flat row: its data, and the answers of annotations that were not cancelled.

    A result named like a field, "question" or "answer", is that field; of results with other names the one there is
    is the answer.
    """
    data = task.get("data")
    row: dict[str, Any] = dict(data) if isinstance(data, Mapping) else {"data": data}
    row |= {key: value for key, value in task.items() if key not in ("annotations", "data", "id")}
    said = _said(task.get("annotations"))
    questions = said.pop("question", [])
    if questions and "question" not in row:
        row["question"] = questions[0]
    answers = said.pop("answer", None) or (next(iter(said.values())) if len(said) == 1 else None)
    if answers is None and said:
        row["answer"] = said  # several kinds of result, and none is called answer: named as what it is
    elif answers:
        row["answer" if len(answers) == 1 else "answers"] = answers[0] if len(answers) == 1 else answers
    return {"id": task.get("id"), **row}


def _said(annotations: Any) -> dict[str, list[Any]]:
    """What annotators wrote or chose, by the name of the control."""
    said: dict[str, list[Any]] = {}
    for annotation in annotations if isinstance(annotations, list) else []:
        if not isinstance(annotation, Mapping) or annotation.get("was_cancelled"):
            continue
        for result in annotation.get("result") or []:
            kind = result.get("type") if isinstance(result, Mapping) else None
            value = result.get("value") if isinstance(result, Mapping) else None
            if kind in _WORDS and isinstance(value, Mapping):
                words = value.get(_WORDS[kind])
                joined = ", ".join(map(str, words)) if isinstance(words, list) else words
                said.setdefault(str(result.get("from_name")), []).append(joined)
    return said
