"""What can be asked about a scene, with the true answer, in several phrasings each. Knows nothing of models."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from numpy.random import Generator

from models.scenes import COLOURS, SHAPES, Scene, Thing


@dataclass(frozen=True, slots=True)
class SceneQuestion:
    """One question about a scene."""

    question: str
    answer: str
    category: str


PLACES = (("top left", "top", "top right"), ("left", "center", "right"), ("bottom left", "bottom", "bottom right"))
PRESENCE = 10
PAIRS = 5
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")
# A square is a rectangle and a circle an oval: whether there "is a rectangle" is then a matter of taste, so not asked.
ALIKE = {"square": "rectangle", "rectangle": "square", "circle": "oval", "oval": "circle"}


def ask(scene: Scene, rng: Generator, most: int) -> list[SceneQuestion]:
    """At most `most` questions about `scene`, as varied as it allows, in random order."""
    if scene.kind == "shapes":
        asked = list(_shapes(scene.things, rng))
    elif scene.kind == "text":
        asked = list(_text(scene, rng))
    else:
        asked = list(_chart(scene, rng))
    asked = list({each.question: each for each in asked}.values())
    return [asked[index] for index in rng.permutation(len(asked))[:most]]


def _pick(rng: Generator, *phrases: str) -> str:
    return phrases[int(rng.integers(len(phrases)))]


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeio" else f"a {noun}"


def _shapes(things: tuple[Thing, ...], rng: Generator) -> Iterator[SceneQuestion]:
    kinds, colours = Counter(thing.kind for thing in things), Counter(thing.colour for thing in things)
    yield from _presence(things, rng)
    yield from _counts(things, kinds, colours, rng)
    yield SceneQuestion(
        _pick(rng, "describe the picture.", "what is in the picture?", "what do you see?"), _caption(things), "caption"
    )
    for thing in things:
        if len(things) == 1:
            yield from _single(thing, rng)
        if kinds[thing.kind] == 1:
            text = _pick(rng, "what color is the {}?", "what is the color of the {}?", "which color does the {} have?")
            yield SceneQuestion(text.format(thing.kind), thing.colour, "color")
        if colours[thing.colour] == 1:
            text = _pick(
                rng, "what shape is {}?", "what is the {} shape?", "which shape is {}?", "what is the {} thing?"
            )
            yield SceneQuestion(text.format(thing.colour), thing.kind, "shape")
            yield from _looks(thing, rng)
    yield from _relations([thing for thing in things if colours[thing.colour] == 1], rng)


def _single(thing: Thing, rng: Generator) -> Iterator[SceneQuestion]:
    colour = _pick(
        rng, "what color is the shape?", "what color is it?", "what is the color of the shape?", "which color is shown?"
    )
    shape = _pick(
        rng, "what shape is this?", "what shape is shown?", "what shape is in the picture?", "which shape is it?",
        "what shape can you see?", "what is the shape?",
    )  # fmt: skip
    for _ in range(2):
        yield SceneQuestion(colour, thing.colour, "color")
        yield SceneQuestion(shape, thing.kind, "shape")


def ask_both_ways(scene: Scene, rng: Generator) -> list[SceneQuestion]:
    """About a scene of one thing: what it is, and things it is and is not, each asked for with and without a "not".

    Pairs that differ in the "not" alone teach what it does; of questions drawn one by one it was not learnt.
    """
    asked = list(_single(scene.things[0], rng))
    for _ in range(PAIRS):
        form, there = int(rng.integers(2)), bool(rng.random() < 0.5)
        noun = _present(scene.things, form, rng) if there else _absent(scene.things, form, rng)
        asked += [_plain(noun, there, rng), _negated(noun, there, rng)]
    return list({each.question: each for each in asked}.values())


def _presence(things: tuple[Thing, ...], rng: Generator) -> Iterator[SceneQuestion]:
    """Yes-no questions on kinds, colours and both, every sort as often yes as no: its words alone tell nothing.

    Where they did tell, the model learnt what they told, and never to compare with the picture.
    """
    for _ in range(PRESENCE):
        form, there = int(rng.integers(3)), bool(rng.random() < 0.5)
        noun = _present(things, form, rng) if there else _absent(things, form, rng)
        yield _plain(noun, there, rng) if rng.random() < 0.65 else _negated(noun, there, rng)


def _plain(noun: str, there: bool, rng: Generator) -> SceneQuestion:
    text = _pick(
        rng, "is there {}?", "is there {} in the picture?", "can you see {}?", "does the picture show {}?",
        "is {} in the image?", "does the image contain {}?", "do you see {}?", "is {} present?",
    )  # fmt: skip
    return SceneQuestion(text.format(_article(noun)), "yes" if there else "no", "yes-no")


def _negated(noun: str, there: bool, rng: Generator) -> SceneQuestion:
    text = _pick(
        rng, "is there no {0}?", "is there no {0} in the picture?", "is the {0} missing?", "is no {0} shown?",
        "is there not {1}?", "does the picture not show {1}?", "is no {0} in the image?",
    )  # fmt: skip
    return SceneQuestion(text.format(noun, _article(noun)), "no" if there else "yes", "negation")


def _present(things: tuple[Thing, ...], form: int, rng: Generator) -> str:
    thing = things[int(rng.integers(len(things)))]
    return (thing.kind, f"{thing.colour} shape", f"{thing.colour} {thing.kind}")[form]


def _absent(things: tuple[Thing, ...], form: int, rng: Generator) -> str:
    """Something that is not there; of a colour and a kind one, or each, is there: only not together."""
    kinds, colours = {thing.kind for thing in things}, {thing.colour for thing in things}
    doubtful = kinds | {ALIKE[kind] for kind in kinds if kind in ALIKE}
    kind = str(rng.choice([name for name in SHAPES if name not in doubtful]))
    colour = str(rng.choice([name for name in COLOURS if name not in colours]))
    if form < 2:
        return (kind, f"{colour} shape")[form]
    thing, other = (things[int(rng.integers(len(things)))] for _ in range(2))
    alike = {thing.kind, ALIKE.get(thing.kind)}
    apart = all(t.colour != other.colour or t.kind not in alike for t in things)
    crossed = [f"{other.colour} {thing.kind}"] if apart else []
    return _pick(rng, f"{thing.colour} {kind}", f"{colour} {thing.kind}", *crossed)


def _counts(
    things: tuple[Thing, ...], kinds: Counter[str], colours: Counter[str], rng: Generator
) -> Iterator[SceneQuestion]:
    yield SceneQuestion(
        _pick(rng, "how many shapes are there?", "how many things do you see?", "count the shapes."),
        str(len(things)),
        "count",
    )
    if len(things) > 1:
        kind, colour = str(rng.choice(list(kinds))), str(rng.choice(list(colours)))
        if ALIKE.get(kind) not in kinds:
            yield SceneQuestion(f"how many {kind}s are there?".replace("crosss", "crosses"), str(kinds[kind]), "count")
        yield SceneQuestion(f"how many {colour} shapes are there?", str(colours[colour]), "count")


def _looks(thing: Thing, rng: Generator) -> Iterator[SceneQuestion]:
    x, y = thing.centre
    column, row = (0 if v < 0.36 else 2 if v > 0.64 else 1 for v in (x, y))
    if all(abs(v - edge) > 0.04 for v in (x, y) for edge in (0.36, 0.64)):
        yield SceneQuestion(f"where is the {thing.colour} shape?", PLACES[row][column], "place")
    if thing.size < 0.15 or thing.size > 0.27:
        text = _pick(rng, "is the {} shape small or large?", "how big is the {} shape?")
        yield SceneQuestion(text.format(thing.colour), "small" if thing.size < 0.15 else "large", "size")


def _relations(things: list[Thing], rng: Generator) -> Iterator[SceneQuestion]:
    if len(things) < 2:
        return
    first, second = (things[int(i)] for i in rng.permutation(len(things))[:2])
    for axis, before, after in ((0, "left of", "right of"), (1, "above", "below")):
        gap = second.centre[axis] - first.centre[axis]
        if abs(gap) > 0.12:
            word, right = (before, gap > 0) if rng.random() < 0.5 else (after, gap < 0)
            text = f"is the {first.colour} shape {word} the {second.colour} shape?"
            yield SceneQuestion(text, "yes" if right else "no", "relation")
    if max(first.size, second.size) > 1.4 * min(first.size, second.size):
        bigger, smaller = sorted((first, second), key=lambda thing: -thing.size)
        asks, answer = ("bigger", bigger) if rng.random() < 0.5 else ("smaller", smaller)
        yield SceneQuestion(
            f"which is {asks}, the {first.colour} or the {second.colour} shape?", answer.colour, "relation"
        )


def _caption(things: tuple[Thing, ...]) -> str:
    ordered = sorted(things, key=lambda thing: -thing.size)[:3]
    return " and ".join(_article(f"{thing.colour} {thing.kind}") for thing in ordered) + "."


def _text(scene: Scene, rng: Generator) -> Iterator[SceneQuestion]:
    text, colour = scene.text, scene.things[0].colour
    noun = (
        "digit"
        if text.isdigit() and len(text) == 1
        else "number"
        if text.isdigit()
        else "letter"
        if len(text) == 1
        else "word"
    )
    asks = {
        "digit": (
            "what digit is shown?",
            "what digit do you see?",
            "read the digit.",
            "what is the digit?",
            "which number is this?",
        ),
        "number": ("what number is shown?", "read the number.", "which number is this?", "what is the number?"),
        "letter": ("what letter is shown?", "read the letter.", "which letter is this?", "what letter do you see?"),
        "word": ("what letters are shown?", "read the letters.", "which letters are these?"),
    }[noun]
    for phrase in rng.permutation(list(asks))[:2]:
        yield SceneQuestion(str(phrase), text, noun)
    yield SceneQuestion(
        _pick(rng, "what is written?", "what does it say?", "read the text.", "what is in the picture?"), text, noun
    )
    yield SceneQuestion(f"what color is the {_pick(rng, noun, 'text')}?", colour, "color")
    yield SceneQuestion("how many characters are there?", str(len(text)), "count")
    kind = "letter" if noun in ("letter", "word") else "digit"
    asked = _pick(rng, "letter", "digit")
    yield SceneQuestion(f"is there a {asked} in the picture?", "yes" if asked == kind else "no", "yes-no")
    if noun == "number":
        other = int(rng.integers(1000))
        if other != int(text):
            yield SceneQuestion(f"is the number larger than {other}?", "yes" if int(text) > other else "no", "relation")


def _chart(scene: Scene, rng: Generator) -> Iterator[SceneQuestion]:
    values, names = scene.values, [thing.colour for thing in scene.things]
    part = {"bars": "bar", "pie": "slice", "lines": "line"}[scene.kind]
    yield SceneQuestion(
        _pick(rng, "what kind of chart is this?", "which chart is it?"),
        f"{part.replace('slice', 'pie')} chart",
        "chart",
    )
    if scene.kind == "lines":
        yield SceneQuestion("what color is the line?", names[0], "color")
        if abs(values[-1] - values[0]) > 0.12:
            yield SceneQuestion(
                "does the line end higher or lower than it starts?",
                "higher" if values[-1] > values[0] else "lower",
                "chart",
            )
        yield SceneQuestion("how many points does the line have?", str(len(values)), "count")
        return
    yield SceneQuestion(f"how many {part}s are there?", str(len(values)), "count")
    top, bottom = values.index(max(values)), values.index(min(values))
    high, low = ("tallest", "shortest") if part == "bar" else ("largest", "smallest")
    ranked = sorted(values)
    clear_top, clear_bottom = ranked[-1] - ranked[-2] > 0.05, ranked[1] - ranked[0] > 0.05
    if len(set(names)) > 1:
        if clear_top:
            yield SceneQuestion(
                _pick(rng, f"what color is the {high} {part}?", f"which {part} is the {high}?"), names[top], "chart"
            )
        if clear_bottom:
            yield SceneQuestion(
                _pick(rng, f"what color is the {low} {part}?", f"which {part} is the {low}?"), names[bottom], "chart"
            )
        a, b = (int(i) for i in rng.permutation(len(values))[:2])
        if abs(values[a] - values[b]) > 0.05:
            word = "taller" if part == "bar" else "larger"
            yield SceneQuestion(
                f"is the {names[a]} {part} {word} than the {names[b]} {part}?",
                "yes" if values[a] > values[b] else "no",
                "chart",
            )
    elif clear_top:
        yield SceneQuestion(f"which {part} is the {high}, counted from the left?", ORDINALS[top], "chart")
        yield SceneQuestion(f"what color are the {part}s?", names[0], "color")
