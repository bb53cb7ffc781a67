"""Turns of a conversation, as LLaVA, TRL, OpenAI, ms-swift, LLaMA-Factory and the Cauldron write them -> exchanges."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainer.data.faults import Notes
from trainer.data.forms import values
from trainer.data.forms.keys import fold
from trainer.data.forms.values import Picture

PLACEHOLDER = "<image>"
HUMAN, GPT, SYSTEM = "human", "gpt", "system"
SPEAKERS = {
    **dict.fromkeys(("human", "user", "prompter", "question"), HUMAN),
    **dict.fromkeys(("gpt", "assistant", "bot", "model", "chatgpt", "bard", "answer"), GPT),
    **dict.fromkeys(("system", "developer"), SYSTEM),
}
_WHO, _SAID = ("from", "role", "speaker"), ("value", "content", "text")
# Of a turn, what changes nothing in what is learnt.
_PLAIN = frozenset({"id", "weight", "loss", "source", "name"})
# How other models' data write a picture's place.
_FOREIGN = re.compile(r"<im_start>|<im_end>|<\|vision_start\|>|<\|vision_end\|>|</?img>")
_OTHERS = re.compile(r"<image-placeholder>|<\|image_pad\|>|<\|image\|>|<ImageHere>|<image_1>|<image 1>")


@dataclass(slots=True)
class Talk:
    """What was said: `turns` are (speaker, text) and `pictures` those that turns name themselves."""

    turns: list[tuple[str, str]] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)


def turns(value: Any, key: str, notes: Notes) -> Talk:
    """The turns of the list `value`, which the record has under `key`; what is wrong with them is in `notes`.

    A system's text may stand before the first question. Behind a turn that is out of order nothing is read.
    """
    talk = Talk()
    if not isinstance(value, list) or not value:
        notes.fault(f"{key} is not a list of human and gpt turns")
        return talk
    if all(isinstance(turn, Mapping) and {"user", "assistant"} <= set(turn) for turn in value):
        value = [{"from": who, "value": turn[who]} for turn in value for who in ("user", "assistant")]
    for number, turn in enumerate(value, start=1):
        if not isinstance(turn, Mapping):
            notes.fault(f"turn {number} of {key} is from None: not from {_expected(talk)}")
            return talk
        speaker = _speaker(turn, number, key, talk, notes)
        if speaker is None:
            return talk
        said = _said(turn, number, notes, talk)
        if speaker == SYSTEM and said.strip():
            notes.mend("system: a text put before the first question; ask with it before the question too")
        talk.turns.append((speaker, said))
    return talk


def exchanges(talk: Talk, key: str, notes: Notes) -> list[tuple[str, str]]:
    """Questions with their answers; a system's text becomes part of the question behind it."""
    said = [each for each in talk.turns if each[0] != SYSTEM]
    before = "\n".join(text.strip() for who, text in talk.turns if who == SYSTEM and text.strip())
    if said and before:
        said[0] = (said[0][0], f"{before}\n{said[0][1]}")
    if len(said) % 2:
        notes.fault(f"the last turn of {key} has no answer")
    return [(said[at][1], said[at + 1][1]) for at in range(0, len(said) - 1, 2)]


def _expected(talk: Talk) -> str:
    asked = sum(who != SYSTEM for who, _ in talk.turns)
    return (HUMAN, GPT)[asked % 2]


def _speaker(turn: Mapping[str, Any], number: int, key: str, talk: Talk, notes: Notes) -> str | None:
    found = next((turn[name] for name in _WHO if turn.get(name) is not None), None)
    speaker = SPEAKERS.get(found.casefold()) if isinstance(found, str) else None
    expected = _expected(talk)
    if speaker == SYSTEM and not any(who != SYSTEM for who, _ in talk.turns):
        return SYSTEM
    if speaker == expected:
        return speaker
    twice = talk.turns and speaker is not None and talk.turns[-1][0] == speaker
    why = f"two {speaker} turns in a row" if twice else f"not from {expected}"
    notes.fault(f"turn {number} of {key} is from {found!r}: {why}")
    return None


def _said(turn: Mapping[str, Any], number: int, notes: Notes, talk: Talk) -> str:
    key = next((name for name in _SAID if turn.get(name) is not None), _SAID[0])
    for other in turn:
        if other not in (*_WHO, *_SAID) and turn[other] is not None and fold(other) not in _PLAIN:
            notes.fault(f"key {other!r} of turn {number} is not understood")
    value = turn.get(key)
    if not isinstance(value, list):
        return _kept(value, key, f" of turn {number}", notes)
    texts = []
    for part in value:
        match part:
            case str():
                texts.append(part)
            case {"type": "text" | "input_text" | "output_text", "text": str(said)}:
                texts.append(said)
            case {"type": "image", **held} if not {name for name in held if held[name] is not None}:
                texts.append(PLACEHOLDER)
            case {"type": "text"}:
                notes.fault(f"a part of turn {number} is of type 'text' and holds none")
            case {"type": "image" | "image_url" | "input_image", **held}:
                talk.pictures += _held(held, number, notes)
            case _:
                notes.fault(f"a part of turn {number} is neither text nor an image: {{}}", f"{part!r:.80}")
    return _kept("\n".join(texts), key, f" of turn {number}", notes)


def _held(part: Mapping[Any, Any], number: int, notes: Notes) -> list[Picture]:
    names = [part[name] for name in ("image", "image_url", "url", "path", "source") if part.get(name) is not None]
    if not names:
        notes.fault(f"a part of turn {number} is an image and names none")
        return []
    value = names[0]
    url = value.get("url") if isinstance(value, Mapping) and set(value) <= {"url", "detail"} else value
    return list(values.pictures(url, f"image of turn {number}", notes))


def _kept(value: Any, key: str, where: str, notes: Notes) -> str:
    """A turn's text as it is; what is missing is a fault, what is text and wrong is found later."""
    if isinstance(value, bool | int | float):
        return values.answer(value, key, where, notes)
    if value is None or not isinstance(value, str):
        values.text(value, key, where, notes)
        return ""
    if not value.strip():
        notes.fault(f"field {key!r}{where} is missing or empty")
    return value


def placed(questions: list[tuple[str, str]], images: int, notes: Notes) -> list[str]:
    """The questions without the placeholders of images; one in every turn stands for the one picture there is.

    `questions` come with their names for faults, "field 'value' of turn 1" say.
    """
    plain = [_own(text, notes) for text, _ in questions]
    counts = [text.count(PLACEHOLDER) for text in plain]
    for number, (count, (_, name)) in enumerate(zip(counts, questions, strict=True)):
        most = min(images, 1)
        if count > most:
            notes.fault(f"{name} has {count} {PLACEHOLDER} placeholders, at most {most} can be")
        elif count and number and not any(counts[:number]):
            notes.mend("placeholders: in a later question, and the picture is shown at the first")
        elif count and number and sum(counts[: number + 1]) == 2:
            notes.mend("placeholders: one in several questions, of one picture")
    return [text.replace(PLACEHOLDER, "").strip() for text in plain]


def _own(text: str, notes: Notes) -> str:
    found = _OTHERS.sub(PLACEHOLDER, _FOREIGN.sub("", text))
    if found != text:
        notes.mend("placeholders: spelt as another model has them")
    return found
