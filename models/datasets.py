"""`python -m models.datasets DIRECTORY`: the two public data sets of the adapters, as JSON lines and images.

DIRECTORY/shapes/{train,test}.jsonl, images/    easy-VQA's own splits, from the easy-vqa package
DIRECTORY/digits/{train,test}.jsonl, images/    scikit-learn's handwritten digits; a fifth held out, by seed
"""

import json
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import easy_vqa
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

ASKS = (
    "which digit is this?",
    "what digit is this?",
    "what number is written here?",
    "which number do you see?",
    "read the handwritten digit.",
)
HELD_OUT, SEED = 0.2, 0
COLOURS = ("red", "green", "blue", "black", "gray", "teal", "brown", "yellow")


def write_shapes(directory: Path) -> None:
    """easy-VQA's training and test questions with their images."""
    images = directory / "images"
    images.mkdir(parents=True, exist_ok=True)
    splits = {
        "train": (easy_vqa.get_train_questions(), easy_vqa.get_train_image_paths()),
        "test": (easy_vqa.get_test_questions(), easy_vqa.get_test_image_paths()),
    }
    for split, ((questions, answers, numbers), paths) in splits.items():
        for number, path in paths.items():
            shutil.copyfile(path, images / f"{split}-{number}.png")
        rows = (
            _row(f"{split}-{index}", f"{split}-{number}.png", question, answer, _category(answer))
            for index, (question, answer, number) in enumerate(zip(questions, answers, numbers, strict=True))
        )
        _write(directory / f"{split}.jsonl", rows)


def write_digits(directory: Path) -> None:
    """Handwritten digits of 8x8 pixels, enlarged eightfold; every phrasing in training, one per held-out digit."""
    images = directory / "images"
    images.mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    for index, pixels in enumerate(digits.images):
        grey = Image.fromarray((pixels * 255 / 16).round().astype(np.uint8))
        grey.resize((64, 64), Image.Resampling.BICUBIC).convert("RGB").save(images / f"{index}.png")
    indices = np.arange(len(digits.target))
    train, test = train_test_split(indices, test_size=HELD_OUT, random_state=SEED, stratify=digits.target)
    _write(directory / "train.jsonl", (_digit(index, ask, digits.target) for index in train for ask in ASKS))
    _write(directory / "test.jsonl", (_digit(index, ASKS[index % len(ASKS)], digits.target) for index in test))


def _digit(index: int, question: str, targets: Any) -> dict[str, Any]:
    return _row(f"{index}-{ASKS.index(question)}", f"{index}.png", question, str(targets[index]), "digit")


def _category(answer: str) -> str:
    return "yes-no" if answer in ("yes", "no") else "color" if answer in COLOURS else "shape"


def _row(id_: str, image: str, question: str, answer: str, category: str) -> dict[str, Any]:
    turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
    return {"id": id_, "image": image, "category": category, "conversations": turns}


def _write(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Write both data sets below the directory given."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(__doc__)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    write_shapes(Path(arguments[0]) / "shapes")
    write_digits(Path(arguments[0]) / "digits")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
