"""`data score`: figures that say how well each row's picture and answer go together; the worst rows are left out.

similarity   the cosine of picture and text, by a CLIP checkpoint
margin       similarity, less that of the text with the other answers given to the same question: a plain similarity
             mostly tells how common the picture is; answers of one wording are compared here
agreement    among the nearest pictures that are asked the same (--within), the share that was answered the same; needs
             no texts, so that a LLaVA's own tower does. An answer's vote weighs 1 / sqrt(rows with it): where one
             answer has most rows, it is near to everything.

sharpness, contrast     of the picture alone, as `data filter` judges it; every row's are in the file of scores

A row without a figure (no image, a question that nothing else asks) stays, and is counted.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
from tqdm import tqdm

from trainer.config.data import ScoreOptions
from trainer.data import files
from trainer.data.curation.embedding import Embedder
from trainer.data.curation.neighbours import Space
from trainer.data.image_facts import facts_of_all
from trainer.data.row import Row
from trainer.data.rows import rows_of
from trainer.data.write import Report, writing
from trainer.errors import DataError, OptionError

# Answers of a question that a margin compares with, the most common ones; nearest pictures that are compared.
_OTHERS, _NEAREST = 16, 64
# Rows whose neighbours are counted at once.
_BLOCK = 10_000
_SHOWN = 5
# What facts say of a picture alone (trainer/data/image_facts.py); the first two may be what rows are dropped by.
QUALITY = ("sharpness", "contrast", "brightness", "width", "height")


def score(options: ScoreOptions) -> str:
    """Write the rows that are kept, and every row's figures beside them.

    Raises:
        DataError: faulty rows, a file that cannot be read or written, or no row that has a figure.
        ServiceError: an image does not decode; `data filter` drops those.
        OptionError: no --model where the figure needs one, one that cannot be loaded, or one that reads no texts where
            texts are compared.
    """
    embedder = _embedder(options)
    # 1. Which questions, answers and pictures there are, in numbers; and the pictures' own figures.
    numbered = _Numbered(options)
    quality = _quality(numbered, options)
    # 2. Every row's figure, in the rows' order.
    if embedder is None:
        figures = np.append(quality[:, QUALITY.index(options.by)], np.nan).astype(np.float32)[numbered.rows[:, 2]]
    elif options.by == "agreement":
        figures = _agreements(numbered, Space(embedder.of_files(numbered.images, options.index)), options.neighbours)
    else:
        figures = _similarities(numbered, embedder, options)
    # 3. The limit below which rows go, and the rows that stay.
    known = figures[~np.isnan(figures)]
    if not len(known):
        raise DataError(
            [f"{options.data}: no row has a figure: rows need images, and --by {options.by} what it compares"]
        )
    least = float(np.quantile(known, options.drop)) if options.drop else -np.inf
    if options.least is not None:
        least = max(least, options.least)
    return "\n".join([*_write(options, numbered, quality, figures, least), *_told(figures, known, options)])


def _embedder(options: ScoreOptions) -> Embedder | None:
    if options.by in QUALITY:
        return None

    if options.model is None:
        raise OptionError(f"--by {options.by}: needs --model, a CLIP checkpoint; --by sharpness and contrast need none")
    embedder = Embedder(options.model)
    if options.by != "agreement" and not embedder.reads_texts:
        raise OptionError(f"--by {options.by}: --model {options.model} reads no texts: name a CLIP, or --by agreement")
    return embedder


def _quality(numbered: "_Numbered", options: ScoreOptions) -> np.ndarray:
    """The figures QUALITY of each picture, (pictures, 5)."""
    found = np.zeros((len(numbered.images), len(QUALITY)), np.float32)
    for place, (image, facts) in enumerate(facts_of_all(numbered.images, options.index)):
        if facts.fault:
            raise DataError([f"{files.relative(image, options.images)}: {facts.fault}: `data filter` drops it"])
        found[place] = [getattr(facts, name) for name in QUALITY]
    return found


class _Numbered:
    """A set in numbers: `rows` (rows, 3) has the places of each row's question, answer and image, -1 where it has none.

    `answers` and `images` are the texts and names that these are places in; of questions no text is held.
    """

    def __init__(self, options: ScoreOptions) -> None:
        questions: dict[int, int] = {}
        answers: dict[str, int] = {}
        self._images: dict[str, int] = {}
        triples: list[tuple[int, int, int]] = []
        for row in rows_of(options):
            image = self._images.setdefault(row.image, len(self._images)) if row.image else -1
            same = row.category if options.by == "agreement" and options.within == "category" else row.question
            question = questions.setdefault(hash((same, row.history)), len(questions))
            triples.append((question, answers.setdefault(row.answer, len(answers)), image))
        self.rows = np.array(triples, np.int32).reshape(-1, 3)
        self.answers = list(answers)
        self.images = list(self._images)

    def others(self) -> dict[int, list[int]]:
        """By question, the answers that it has, the most common first; questions of a single answer are left out."""
        pairs, counts = np.unique(self.rows[:, :2], axis=0, return_counts=True)
        found: dict[int, list[int]] = defaultdict(list)
        for place in np.argsort(-counts, kind="stable"):
            found[int(pairs[place, 0])].append(int(pairs[place, 1]))
        return {question: answers[:_OTHERS] for question, answers in found.items() if len(answers) > 1}


def _similarities(numbered: _Numbered, embedder: Embedder, options: ScoreOptions) -> np.ndarray:
    """Similarity or margin of each row; NaN where there is none."""
    others = numbered.others() if options.by == "margin" else {}
    vectors = np.stack([vector for _, vector in embedder.of_files(numbered.images, options.index)]).astype(np.float16)
    texts = lru_cache(maxsize=20_000)(lambda text: embedder.texts([text])[0])
    figures = np.full(len(numbered.rows), np.nan, np.float32)
    rows = rows_of(options)
    for number, row in enumerate(tqdm(rows, total=len(figures), desc="score", unit="row", disable=None)):
        question, answer, image = (int(value) for value in numbered.rows[number])
        if image < 0:
            continue
        vector = vectors[image].astype(np.float32)
        own = float(vector @ texts(_text(row.question, row.answer, options)))
        if options.by == "similarity":
            figures[number] = own
        elif rivals := [other for other in others.get(question, ()) if other != answer]:
            compared = [texts(_text(row.question, numbered.answers[other], options)) for other in rivals]
            figures[number] = own - max(float(vector @ each) for each in compared)
    return figures


def _text(question: str, answer: str, options: ScoreOptions) -> str:
    return options.text.replace("{question}", question).replace("{answer}", answer)


def _agreements(numbered: _Numbered, space: Space, neighbours: int) -> np.ndarray:
    """The weighed share of each row's answer among the nearest pictures that are asked the same; NaN where none is.

    Of a picture that was asked the same several times its first answer counts.
    """
    question, answer, image = (numbered.rows[:, column].astype(np.int64) for column in range(3))
    weights = 1 / np.sqrt(np.maximum(np.bincount(answer), 1))
    pictured = np.flatnonzero(image >= 0)
    most = int(question.max()) + 1
    keys, first = np.unique(image[pictured] * most + question[pictured], return_index=True)
    said = answer[pictured][first]
    _, places = space.nearest(_NEAREST)
    figures = np.full(len(numbered.rows), np.nan, np.float32)
    if not len(keys) or not places.shape[1]:
        return figures
    for start in range(0, len(pictured), _BLOCK):
        rows = pictured[start : start + _BLOCK]
        wanted = places[image[rows]] * most + question[rows, None]
        found = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        asks = keys[found] == wanted
        asks &= asks.cumsum(axis=1) <= neighbours
        votes = weights[said[found]] * asks
        total = votes.sum(axis=1)
        own = (votes * (said[found] == answer[rows, None])).sum(axis=1)
        figures[rows] = np.divide(own, total, out=np.full(len(rows), np.nan), where=total > 0)
    return figures


def _write(
    options: ScoreOptions, numbered: _Numbered, quality: np.ndarray, figures: np.ndarray, least: float
) -> Iterator[str]:
    report = Report()
    with (
        writing(options.output, options.images, report) as writer,
        files.writing(options.scores or f"{options.output}.scores") as scores,
    ):
        for number, (row, figure) in enumerate(zip(rows_of(options), figures.tolist(), strict=True)):
            kept = not figure < least  # NaN stays
            found = None if np.isnan(figure) else round(figure, 4)
            facts = {"id": row.id, options.by: found, "kept": kept}
            if (image := int(numbered.rows[number, 2])) >= 0:
                facts = dict(zip(QUALITY, quality[image].round(2).tolist(), strict=True)) | facts
            scores.write(json.dumps(facts).encode() + b"\n")
            if kept:
                writer.write(row)
            else:
                report.note(f"dropped, {options.by} under {least:.3f}", row.id)
    yield str(report)


def _told(figures: np.ndarray, known: np.ndarray, options: ScoreOptions) -> Iterator[str]:
    low, tenth, middle, high = np.quantile(known, [0, 0.1, 0.5, 1])
    yield f"{options.by}: least {low:.3f}, 10% under {tenth:.3f}, half under {middle:.3f}, most {high:.3f}"
    if missing := len(figures) - len(known):
        yield f"{missing} rows have no figure and stay"
    worst = _worst(figures, options)
    yield "the worst: " + "; ".join(f"{row.id} {figure:.3f} {_said(row)}" for row, figure in worst)


def _worst(figures: np.ndarray, options: ScoreOptions) -> list[tuple[Row, float]]:
    places = set(np.argsort(np.where(np.isnan(figures), np.inf, figures), kind="stable")[:_SHOWN].tolist())
    found = [
        (row, float(figures[number]))
        for number, row in enumerate(rows_of(options))
        if number in places and not np.isnan(figures[number])
    ]
    return sorted(found, key=lambda each: each[1])


def _said(row: Row) -> str:
    short: Callable[[str], str] = lambda text: text if len(text) <= 40 else f"{text[:39]}…"  # noqa: E731
    return f"{short(row.question)!r}: {short(row.answer)!r}"
