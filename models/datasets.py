"""`python -m models.datasets DIRECTORY [NAME …]`: the adapters' data sets, all or those named, as JSON lines.

DIRECTORY/shapes/{train,test}.jsonl, images/    easy-VQA's own splits, from the easy-vqa package
DIRECTORY/digits/{train,test}.jsonl, images/    scikit-learn's handwritten digits; a fifth held out, by seed
DIRECTORY/charts/{train,test}.jsonl, images/    charts that `trainer data charts` draws; the test's are of other seeds
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

from trainer.config.data import ChartOptions
from trainer.data.charts import make

ASKS = (
    "which digit is this?",
    "what digit is this?",
    "what number is written here?",
    "which number do you see?",
    "read the handwritten digit.",
)
HELD_OUT, SEED = 0.2, 0
# Charts, their kinds and what is asked of them: what the embedded base can be taught to see. It reads no labels.
CHARTS = (
    (5 / 6, ["bar", "line", "bar", "line", "funnel"], ["count", "trend"]),
    (1 / 6, ["scatter"], ["trend"]),
)
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


def write_charts(directory: Path) -> None:
    """Counts of bars, points and stages; whether lines and clouds of points end higher or lower."""
    directory.mkdir(parents=True, exist_ok=True)
    for split, charts, seed in (("train", 6000, 1), ("test", 1200, 101)):
        drawn = b""
        for number, (share, kinds, asked) in enumerate(CHARTS):
            options = {"charts": round(charts * share), "kinds": kinds, "ask": asked, "seed": seed + number}
            make(ChartOptions.model_validate({"output": str(directory), "questions": 2, **options}))
            drawn += (directory / "charts.jsonl").read_bytes()
        (directory / f"{split}.jsonl").write_bytes(drawn)
    (directory / "charts.jsonl").unlink()


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
    """Write the data sets below the directory given."""
    writers = {"shapes": write_shapes, "digits": write_digits, "charts": write_charts}
    if not arguments or arguments[0].startswith("-") or not writers.keys() >= set(arguments[1:]):
        print(__doc__)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    for name in arguments[1:] or writers:
        writers[name](Path(arguments[0]) / name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
