"""Small data sets in the columns of ScienceQA and ChartQA, as `datasets.load_dataset("imagefolder")` reads them.

    FOLDER/test/N.png            pictures; they become the column `image`
    FOLDER/test/metadata.jsonl   a line a row: `file_name` and the other columns
    FOLDER/train.jsonl           of ScienceQA's form: rows for the trainer with the prompts that lmms-eval makes

easy-VQA's questions for a shape get lettered choices; handwritten digits are asked as ChartQA asks for numbers.
"""

import json
import random
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

# The answers to questions for a shape in build/data/shapes, in the order of the lettered choices. The order is the same
# in all questions, so that a small adapter learns in minutes which letter stands for which shape.
_CHOICES = ["circle", "rectangle", "triangle"]
# What lmms-eval's task `scienceqa_img` puts behind the choices.
_INSTRUCTION = "Answer with the option's letter from the given choices directly."


def write_scienceqa(shapes: Path, folder: Path, rows: int, training_rows: int, seed: int = 0) -> None:
    """Write `rows` held-out questions on shapes with lettered choices, and `training_rows` others to train on."""
    draw = random.Random(seed)
    _write(folder, shapes / "images", map(_lettered, _sample(shapes / "test.jsonl", rows, draw)))
    lines = (_to_train(_lettered(row)) for row in _sample(shapes / "train.jsonl", training_rows, draw))
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def write_chartqa(digits: Path, folder: Path, rows: int, seed: int = 0) -> None:
    """Write questions about `rows` held-out handwritten digits, whose answers are numbers."""
    draw = random.Random(seed)
    _write(
        folder,
        digits / "images",
        (
            {"file": row["image"], "type": "human_test", "question": _said(row, 0), "answer": _said(row, 1)}
            for row in _sample(digits / "test.jsonl", rows, draw)
        ),
    )


def _lettered(row: Mapping[str, Any]) -> dict[str, Any]:
    place = _CHOICES.index(_said(row, 1))
    return {"file": row["image"], "question": _said(row, 0), "choices": _CHOICES, "answer": place, "hint": ""}


def _to_train(row: Mapping[str, Any]) -> dict[str, str]:
    lines = [f"{chr(ord('A') + place)}. {choice}" for place, choice in enumerate(row["choices"])]
    question = "\n".join([row["question"], *lines, _INSTRUCTION])
    return {"image": row["file"], "question": question, "answer": chr(ord("A") + row["answer"])}


def _sample(file: Path, count: int, draw: random.Random) -> list[dict[str, Any]]:
    """`count` rows of a file of models.datasets that ask for a shape or a digit."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return draw.sample([row for row in rows if row["category"] in ("shape", "digit")], count)


def _said(row: Mapping[str, Any], message: int) -> str:
    return str(row["conversations"][message]["value"]).removeprefix("<image>\n")


def _write(folder: Path, images: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    split = folder / "test"
    split.mkdir(parents=True)
    lines = []
    for number, row in enumerate(rows):
        name = f"{number}.png"
        shutil.copyfile(images / row["file"], split / name)
        lines.append(json.dumps({"file_name": name} | {key: value for key, value in row.items() if key != "file"}))
    (split / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
