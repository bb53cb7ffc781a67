"""A scene -> what can be asked about it, with the true answers. Knows no wordings.

What cannot be said for sure is not asked: things of a class that also has a crowd or a difficult one on the picture
are neither counted nor placed, and a relation needs clear space or a clear difference between two boxes.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from trainer.data.annotations.scene import Box, Scene, Thing
from trainer.data.annotations.wordings import Wordings

# The largest count that is asked for; and how many times as wide and as high a thing has to be to be called larger.
MOST = 10
LARGER = 1.2
# Things of a scene that are related to each other, and absent classes that are proposed for one scene.
_RELATED, _ABSENT = 6, 8


@dataclass(frozen=True, slots=True)
class UnwordedQuestion:
    """A question without its wording: `fields` fill the wordings' braces; `flag` is True for yes, left, top, the first.

    `subject` is what is asked about, a class, two classes or a column: ledger.py balances the answers to each subject.
    """

    kind: str
    subject: str
    fields: dict[str, str]
    answer: str
    flag: bool | None = None


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What all scenes of a set have in common: the classes, and values of each column of a table.

    `complete`: everything of these classes is annotated, so that what has no annotation is absent (not --partial).
    """

    wordings: Wordings
    names: tuple[str, ...]
    columns: dict[str, tuple[str, ...]]
    complete: bool = True


def questions(scene: Scene, known: Vocabulary, rng: np.random.Generator) -> list[UnwordedQuestion]:
    """Everything that can be asked; of classes that are not there a few, drawn by `rng`."""
    if scene.facts:
        return list(_facts(scene, known, rng))
    if scene.label:
        return list(_labels(scene.label, known, rng))
    things = [thing for thing in scene.things if thing.certain]
    doubtful = {thing.name for thing in scene.things if not thing.certain}
    if not known.complete:
        doubtful |= {thing.name for thing in scene.things}
    counts = Counter(thing.name for thing in things if thing.name not in doubtful)
    placed = [thing for thing in things if counts[thing.name] == 1 and thing.box]
    found = [*_presence(scene, things, known, rng), *_places(placed, known)]
    chosen = [placed[place] for place in rng.permutation(len(placed))[:_RELATED]]
    return [*found, *_counts(counts, scene, known), *_relations(chosen, known)]


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"


def _labels(name: str, known: Vocabulary, rng: np.random.Generator) -> Iterator[UnwordedQuestion]:
    yield UnwordedQuestion("label", "", {}, name)
    for other in (name, *_absent({name}, known, rng)):
        yield UnwordedQuestion("is_label", other, known.wordings.one(other), _yes(other == name), other == name)


def _presence(
    scene: Scene, things: Sequence[Thing], known: Vocabulary, rng: np.random.Generator
) -> Iterator[UnwordedQuestion]:
    there = {thing.name for thing in things}
    for name in sorted(there):
        yield UnwordedQuestion("exists", name, known.wordings.one(name), "yes", True)
    if known.complete:
        for name in _absent({thing.name for thing in scene.things}, known, rng):
            yield UnwordedQuestion("exists", name, known.wordings.one(name), "no", False)


def _absent(there: set[str], known: Vocabulary, rng: np.random.Generator) -> list[str]:
    """At most `_ABSENT` classes drawn by `rng`: none of `there`, and none that is another name for one of these."""
    doubtful = {other for name in there for other in known.wordings.alike(name)}
    absent = [name for name in known.names if name not in doubtful]
    return [absent[place] for place in rng.permutation(len(absent))[:_ABSENT]]


def _counts(counts: Counter[str], scene: Scene, known: Vocabulary) -> Iterator[UnwordedQuestion]:
    everything = {thing.name for thing in scene.things}
    certain = {
        name: count for name, count in sorted(counts.items()) if known.wordings.alike(name) & everything == {name}
    }
    if known.complete and len(everything) == len(scene.things) == sum(certain.values()) == 1:
        yield UnwordedQuestion("what", "", {}, next(iter(certain)))
    for name, count in certain.items():
        if count <= MOST:
            yield UnwordedQuestion("count", name, known.wordings.one(name), str(count))
    for first, second in permutations(certain, 2):
        if certain[first] != certain[second]:
            more = certain[first] > certain[second]
            yield UnwordedQuestion("more", f"{first}/{second}", known.wordings.two(first, second), _yes(more), more)


def _places(placed: Sequence[Thing], known: Vocabulary) -> Iterator[UnwordedQuestion]:
    for thing in placed:
        box, fields = _box(thing), known.wordings.one(thing.name)
        if box.right <= 0.5 or box.left >= 0.5:
            left = box.right <= 0.5
            yield UnwordedQuestion("side", thing.name, fields, "left" if left else "right", left)
        if box.bottom <= 0.5 or box.top >= 0.5:
            top = box.bottom <= 0.5
            yield UnwordedQuestion("height", thing.name, fields, "top" if top else "bottom", top)


def _relations(things: Sequence[Thing], known: Vocabulary) -> Iterator[UnwordedQuestion]:
    for one, other in permutations(things, 2):
        if other.name in known.wordings.alike(one.name):
            continue
        a, b = _box(one), _box(other)
        fields, subject = known.wordings.two(one.name, other.name), f"{one.name}/{other.name}"
        for before, behind, apart in (
            ("left_of", "right_of", _order(a.left, a.right, b.left, b.right)),
            ("above", "below", _order(a.top, a.bottom, b.top, b.bottom)),
            ("smaller", "larger", _sizes(a, b)),
        ):
            if apart is not None:
                yield UnwordedQuestion(before, subject, fields, _yes(apart), apart)
                yield UnwordedQuestion(behind, subject, fields, _yes(not apart), not apart)
        smaller = _sizes(a, b)
        if smaller is not None:
            yield UnwordedQuestion("which_larger", subject, fields, other.name if smaller else one.name, not smaller)


def _order(start: float, end: float, other_start: float, other_end: float) -> bool | None:
    """Whether the first stretch lies before the other; None: they overlap."""
    return True if end <= other_start else False if other_end <= start else None


def _sizes(a: Box, b: Box) -> bool | None:
    """Whether `a` is smaller than `b`; None: it is not clear."""
    if b.width >= LARGER * a.width and b.height >= LARGER * a.height:
        return True
    return False if a.width >= LARGER * b.width and a.height >= LARGER * b.height else None


def _box(thing: Thing) -> Box:
    assert thing.box is not None
    return thing.box


def _facts(scene: Scene, known: Vocabulary, rng: np.random.Generator) -> Iterator[UnwordedQuestion]:
    for column, value in scene.facts:
        name = known.wordings.spoken(column)
        yield UnwordedQuestion("fact", column, {"column": name}, value)
        others = known.columns.get(column, ())
        number = decimal(value)
        for place in rng.permutation(len(others))[:_ABSENT]:
            other = others[int(place)]
            fields = {"column": name, "value": other}
            than = decimal(other)
            if number is None and than is None:
                same = other == value
                if same or other.lower() != value.lower():
                    yield UnwordedQuestion("fact_is", f"{column}/{other}", fields, _yes(same), same)
            elif number is not None and than is not None and number != than:
                yield UnwordedQuestion("fact_more", column, fields, _yes(number > than), number > than)
        if number is None and value in others:
            yield UnwordedQuestion("fact_is", f"{column}/{value}", {"column": name, "value": value}, "yes", True)


def decimal(text: str) -> float | None:
    """The text of a table's cell as a finite number; None: it is no number."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
