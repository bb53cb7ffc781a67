"""The set: questions about pictures, new facts in text alone, and old facts that the base is taught before.

Old facts say which number a letter has, and the other way round. New facts are of codes such as K7: the letter decides
the color, the digit the shape. The codes that are asked are none of those learnt from, so an answer is two facts put
together and never one that was read. Questions about pictures are easy-VQA's, all of a picture's.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from string import ascii_uppercase as LETTERS
from typing import Any

import numpy as np

from trainer.commands.merge import merge
from trainer.commands.train import train
from trainer.config.checkpoints import MergeOptions
from trainer.config.training import TrainOptions
from trainer.data.rows import read_rows

COLOURS = ("red", "blue", "green", "black", "gray", "teal", "brown", "yellow", "pink", "orange")
SHAPES = ("circle", "triangle", "rectangle", "square", "star", "cross", "ring", "oval", "diamond", "pentagon")
OF_COLOUR = ("what color is {}?", "which color is {}?", "which color does {} have?", "{} is what color?")
OF_SHAPE = ("what shape is {}?", "which shape is {}?", "which shape does {} have?", "{} is what shape?")
NUMBER = (
    "what number is the letter {}?", "which number is the letter {}?", "the letter {} is what number?",
    "what is the number of the letter {}?", "which is the number of the letter {}?", "the letter {} is which number?",
)  # fmt: skip
LETTER = tuple(form.replace("number", "#").replace("letter", "number").replace("#", "letter") for form in NUMBER)
# So many wordings of an old fact are held out for the questions asked, and one code of so many.
_KEPT_FORMS = 2
_KEPT = 11


def write_set(work: Path, pictures: Path, rows: int) -> None:
    """Rows with pictures and rows of text, `rows` of each to learn from and a fifth as many to be asked, into `work`.

    `pictures` has easy-VQA's rows as models/datasets.py writes them.
    """
    if (work / "old.jsonl").exists():
        return
    work.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", rows), ("test", rows // 5)):
        rng = np.random.default_rng((7, split == "test"))
        pictured = _pictured(pictures / f"{split}.jsonl", pictures / "images", count, rng)
        drawn = _new_facts(rng, count, kept=split == "test")
        _write(work / f"{split}-image.jsonl", pictured)
        _write(work / f"{split}-text.jsonl", drawn)
        _write(work / f"{split}.jsonl", pictured + drawn)
    _write(work / "old-train.jsonl", list(_old_facts(slice(_KEPT_FORMS, None))))
    _write(work / "old.jsonl", list(_old_facts(slice(_KEPT_FORMS))))


def make_base(model: str, work: Path) -> Path:
    """The directory of a base that knows the old facts: `model` with a LoRA trained on them and merged into it."""
    base = work / "base"
    if base.exists():
        return base
    run = work / "runs" / "base"
    train(
        TrainOptions.model_validate(
            {
                **{"name": "old-facts", "model": model, "data": str(work / "old-train.jsonl"), "output": run},
                **{"eval_data": str(work / "old.jsonl")},
                **{"store": work / "store", "feature_cache": work / "features", "epochs": 60, "optimizer": "muon"},
                **{"learning_rate": 1e-2, "rank": 64, "rows_per_step": 32, "precision": "float32"},
            }
        )
    )
    merge(MergeOptions(adapter=str(run / "learnt"), model=model, output=base, store=work / "store"))
    shutil.rmtree(work / "store")  # it is of another base than what comes
    return base


def _pictured(file: Path, images: Path, count: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """All questions of pictures drawn one after the other, until there are so many."""
    by_picture: dict[str, list[dict[str, Any]]] = {}
    for row in read_rows(file, images):
        name = Path(str(row.image)).name
        found = {"id": row.id, "image": name, "question": row.question, "answer": row.answer, "category": "image"}
        by_picture.setdefault(name, []).append(found)
    names = list(by_picture)
    return [row for place in rng.permutation(len(names)) for row in by_picture[names[place]]][:count]


def _new_facts(rng: np.random.Generator, count: int, kept: bool) -> list[dict[str, Any]]:
    codes = [(a, b) for a in range(26) for b in range(10) if ((3 * a + b) % _KEPT == 0) == kept]
    found = []
    for number in range(count):
        letter, digit = codes[int(rng.integers(len(codes)))]
        forms, answer = ((OF_COLOUR, COLOURS[letter % 10]), (OF_SHAPE, SHAPES[digit]))[number % 2]
        question = forms[int(rng.integers(len(forms)))].format(f"{LETTERS[letter]}{digit}")
        found.append({"question": question, "answer": answer, "category": "text"})
    return found


def _old_facts(forms: slice) -> Iterator[dict[str, Any]]:
    for number, letter in enumerate(LETTERS, start=1):
        asked = [(form.format(letter), str(number)) for form in NUMBER[forms]]
        asked += [(form.format(number), letter) for form in LETTER[forms]]
        yield from ({"question": question, "answer": answer, "category": "old"} for question, answer in asked)


def _write(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
