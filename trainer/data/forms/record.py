"""A record of any form -> what a row is made of: pictures, questions with answers, all right answers, a category."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.data.faults import Notes
from trainer.data.forms import talk, values
from trainer.data.forms.keys import Found, fields, fold
from trainer.data.forms.reading import Reading
from trainer.data.forms.values import Picture

# What is asked about a picture that comes with a caption and no question.
CAPTION = "Describe the image."


@dataclass(frozen=True, slots=True)
class Plain:
    """A record in a row's own terms; `pictures` are names not looked up yet, or bytes.

    `exchanges` are questions with their answers in order, `answers` all right answers to the last, where several were
    given, each as often as it was. `rejected` is the worse answer to the last question, where the record is a pair.
    `groups` are what it is counted in beside its category.
    """

    id: str | None
    category: str | None
    pictures: tuple[Picture, ...]
    exchanges: tuple[tuple[str, str], ...]
    answers: tuple[str, ...]
    rejected: str | None = None
    groups: tuple[str, ...] = ()


def plain(record: Mapping[str, Any], how: Reading, known: frozenset[str], notes: Notes) -> Plain:
    """Read one record; what is wrong with it, and what was mended, is in `notes`."""
    found = fields(record, how, known, notes)
    pictures = list(values.pictures(found["image"].value, "image", notes)) if "image" in found else []
    if "image" in found and isinstance(found["image"].value, list) and len(pictures) == 1:
        notes.mend("paths: a list of one")
    said, several = _said(found, pictures, notes)
    rejected = _rejected(found, notes)
    if rejected and said and said[-1][1] == rejected:
        notes.fault("its chosen and its rejected answer are the same: nothing can be learnt from such a pair")
    return Plain(
        id=_label(found, "id", notes),
        category=_label(found, "category", notes),
        pictures=tuple(pictures),
        exchanges=tuple(said),
        answers=several,
        rejected=rejected,
        groups=_groups(found, notes),
    )


def _said(
    found: dict[str, Found], pictures: list[Picture], notes: Notes
) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    if "talk" in found:
        for other in ("question", "answer", "caption", "input"):
            if other in found:
                key = found[other].key
                notes.fault(f"has both {found['talk'].key!r} and {key!r}: --ignore {key}")
        return _talk(found, found["talk"].value, pictures, notes), _several(found, notes)
    prompt = found["question"].value if "question" in found else None
    if isinstance(prompt, list) and prompt and all(isinstance(turn, Mapping) for turn in prompt):
        answer = found["answer"].value if "answer" in found else None
        turns = [*prompt, *(answer if isinstance(answer, list) else [])]
        return _talk(found, turns, pictures, notes), _several(found, notes)
    return _flat(found, pictures, notes)


def _several(found: dict[str, Found], notes: Notes) -> tuple[str, ...]:
    """All right answers to a conversation's last question, where several are given beside its turns."""
    several = values.answers(found["answers"].value, "answers", notes) if "answers" in found else ()
    return several if len(several) > 1 else ()


def _talk(found: dict[str, Found], value: Any, pictures: list[Picture], notes: Notes) -> list[tuple[str, str]]:
    key = found["talk"].key if "talk" in found else found["question"].key
    before = len(notes.faults)
    spoken = talk.turns(value, key, notes)
    pictures += spoken.pictures
    if "system" in found:
        _system(found["system"], spoken.turns, notes)
    pairs = talk.exchanges(spoken, key, notes) if len(notes.faults) == before else []
    asked = [(question, f"field 'value' of turn {2 * number + 1}") for number, (question, _) in enumerate(pairs)]
    questions = talk.placed(asked, len(pictures), notes)
    return [
        (
            values.text(question, "value", f" of turn {2 * number + 1}", notes),
            _answered(answer, "value", f" of turn {2 * number + 2}", notes),
        )
        for number, (question, (_, answer)) in enumerate(zip(questions, pairs, strict=True))
    ]


def _rejected(found: dict[str, Found], notes: Notes) -> str | None:
    """The worse of a pair's two answers: a text, or as TRL writes it the one turn of the assistant that says it."""
    if "rejected" not in found:
        if "answer" in found and fold(found["answer"].key) == "chosen":
            notes.fault("field 'rejected' is missing: a pair has a chosen and a rejected answer")
        return None
    value = found["rejected"].value
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], Mapping):
        asked = {"role": "user", "content": "?"}  # an answer is read behind a question alone
        value = (talk.turns([asked, *value], found["rejected"].key, notes).turns[1:] or [("", "")])[0][1]
    return _answered(value, "rejected", "", notes)


def _system(found: Found, turns: list[tuple[str, str]], notes: Notes) -> None:
    if isinstance(found.value, str) and found.value.strip():
        notes.mend("system: a text put before the first question; ask with it before the question too")
        turns.insert(0, (talk.SYSTEM, found.value))
    elif found.value != "":
        notes.fault(f"field {found.key!r} is {values.kind(found.value)}, not text")


def _flat(
    found: dict[str, Found], pictures: list[Picture], notes: Notes
) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    asked, given = _question(found, notes)
    (question,) = talk.placed([(asked, "field 'question'")], len(pictures), notes)
    if asked:
        question = values.text(question, "question", "", notes)
    field = "chosen" if "rejected" in found else "answer"
    several = values.answers(given.value, field, notes) if given else ()
    if not given:
        notes.fault(f"field {field!r} is missing or empty")
    if given and "answers" in found and given.key != found["answers"].key:
        answer = values.most_given(several) if several else ""
        several = values.answers(found["answers"].value, "answers", notes)
    else:
        answer = values.most_given(several) if several else ""
    pairs = _history(found, notes)
    _placeholder(answer, "field 'answer'", notes)
    return [*pairs, (question, answer)], several if len(several) > 1 else ()


def _question(found: dict[str, Found], notes: Notes) -> tuple[str, Found | None]:
    """The text that is asked, with what stands before and behind it, and the field that answers."""
    given = found.get("answer") or found.get("answers")
    caption = found.get("caption")
    if caption and not given and "question" not in found:
        notes.mend(f"captions: asked {CAPTION!r}")
        return CAPTION, caption
    if caption:
        notes.fault(f"key {caption.key!r} is not understood beside a question: --ignore {caption.key}")
    if "question" not in found:
        notes.fault("field 'question' is missing or empty")
        return "", given
    text = found["question"].value
    if not isinstance(text, str) or not text:
        text = values.text(text, "question", "", notes)
    if given is None and found["question"].key.casefold() == "text":
        notes.fault("'text' stands alone: it is a caption by --form captions, or a question whose answer is missing")
    if (more := found.get("input")) and more.value:
        text = f"{text}\n{values.text(more.value, more.key, '', notes)}"
    if (system := found.get("system")) and system.value:
        notes.mend("system: a text put before the first question; ask with it before the question too")
        text = f"{values.text(system.value, system.key, '', notes)}\n{text}"
    return text, given


def _history(found: dict[str, Found], notes: Notes) -> list[tuple[str, str]]:
    """LLaMA-Factory's and ms-swift's earlier exchanges: a list of pairs."""
    if not (history := found.get("history")) or history.value == []:
        return []
    pairs = history.value
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        notes.fault(f"field {history.key!r} is not a list of questions with their answers")
        return []
    return [
        (
            values.text(question, "question", f" of pair {number} of history", notes)
            .replace(talk.PLACEHOLDER, "")
            .strip(),
            _answered(answer, "answer", f" of pair {number} of history", notes),
        )
        for number, (question, answer) in enumerate(pairs, start=1)
    ]


def _answered(value: Any, field: str, where: str, notes: Notes) -> str:
    answer = values.answer(value, field, where, notes)
    _placeholder(answer, f"field {field!r}{where}", notes)
    return answer


def _placeholder(answer: str, name: str, notes: Notes) -> None:
    """A placeholder in an answer would be read as a picture."""
    if count := answer.count(talk.PLACEHOLDER):
        notes.fault(
            f"{name} has {count} {talk.PLACEHOLDER} placeholders, at most 0 can be: write the text otherwise, < image >"
        )


def _groups(found: dict[str, Found], notes: Notes) -> tuple[str, ...]:
    given = found["groups"].value if "groups" in found else []
    if not isinstance(given, list) or not all(isinstance(name, str) and name for name in given):
        notes.fault(f"field {found['groups'].key!r} is not a list of names: {{}}", f"{given!r:.100}")
        return ()
    return tuple(given)


def _label(found: dict[str, Found], field: str, notes: Notes) -> str | None:
    value = found[field].value if field in found else None
    if value is None or value == "":
        return None
    if not isinstance(value, str | int | float) or values.broken(str(value)):
        notes.fault(f"field {field!r} is neither text nor a number: {{}}", f"{value!r:.100}")
    return str(value)
