"""A conversation is learnt with its history: what its second turn means is told by the first one alone."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from tests.conftest import ROOT
from trainer.__main__ import main
from trainer.adapter.find import find
from trainer.data.row import per_question
from trainer.data.rows import read_rows
from trainer.evaluation.generate import predict
from trainer.model.checkpoint import Checkpoint
from trainer.model.features import States

MODEL = ROOT / "models/tiny-llava"
COLOURS = ("red", "green", "blue", "black", "orange", "purple", "brown", "yellow")
SHAPES = ("circle", "square", "triangle")
ELSE = "what else is it?"
PICTURES, HELD_OUT = 96, 24


def drawn(number: int) -> tuple[Image.Image, str, str]:
    """A picture of one thing, and the thing's colour and shape; no two numbers give the same bytes."""
    colour, shape = COLOURS[number % len(COLOURS)], SHAPES[number // len(COLOURS) % len(SHAPES)]
    left, top = 10 + 7 * (number % 5), 8 + 3 * (number // 24)
    size = 40 + 5 * (number % 4)
    box = (left, top, left + size, top + size)
    image = Image.new("RGB", (128, 128), "white")
    pen = ImageDraw.Draw(image)
    if shape == "circle":
        pen.ellipse(box, fill=colour)
    elif shape == "square":
        pen.rectangle(box, fill=colour)
    else:
        pen.polygon([(left, top + size), (left + size // 2, top), (left + size, top + size)], fill=colour)
    return image, colour, shape


def conversations(colour: str, shape: str) -> Iterator[list[tuple[str, str]]]:
    """Both about the same picture, in whose second turns the same words are asked."""
    yield [("what color is it?", colour), (ELSE, shape)]
    yield [("what shape is this?", shape), (ELSE, colour)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.jsonl and test.jsonl hold conversations, alone-….jsonl every turn of these as a row of its own."""
    folder = tmp_path_factory.mktemp("conversations")
    files: dict[str, list[str]] = {}
    for number in range(PICTURES + HELD_OUT):
        name, side = f"{number}.png", "train" if number < PICTURES else "test"
        image, *known = drawn(number)
        image.save(folder / name)
        for talk in conversations(*known):
            said = [
                {"from": who, "value": text} for pair in talk for who, text in zip(("human", "gpt"), pair, strict=True)
            ]
            files.setdefault(f"{side}.jsonl", []).append(json.dumps({"image": name, "conversations": said}))
            for question, answer in talk:
                row = {"image": name, "question": question, "answer": answer}
                files.setdefault(f"alone-{side}.jsonl", []).append(json.dumps(row))
    for file, lines in files.items():
        (folder / file).write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return Checkpoint.load(MODEL)


def trained(folder: Path, rows: str) -> Path:
    """The run of a training on `rows`train.jsonl, as many updates of as many pictures of either form."""
    run = folder / f"run-{rows}"
    files = ["--data", str(folder / f"{rows}train.jsonl"), "--eval-data", str(folder / f"{rows}test.jsonl")]
    paths = ["--images", str(folder), "--store", str(run / "store"), "--output", str(run), "--model", str(MODEL)]
    how = ["--epochs", "7", "--learning-rate", "6e-3", "--optimizer", "muon", "--rank", "64"]
    how += ["--rows-per-step", "32" if rows else "16", "--feature-cache", str(folder / "features")]
    assert main(["train", "--name", "talk", *files, *paths, *how]) == 0
    return run


def right(checkpoint: Checkpoint, run: Path, test: Path) -> float:
    """The share of the second turns in a file that a run's adapter answers rightly, the true first turn before them."""
    second = [row for row in per_question(read_rows(test, test.parent)) if row.question == ELSE]
    with find(str(run), run / "store").applied_to(checkpoint.model):
        said = predict(checkpoint, checkpoint.model, second, States.of(checkpoint, second), "second turns")
    return sum(answer.text == row.answer for answer, row in zip(said, second, strict=True)) / len(second)


def test_a_second_turn_that_needs_the_first_is_learnt_with_its_history_and_not_without(
    folder: Path, checkpoint: Checkpoint
) -> None:
    """Without it no answer can be right for more than one of the two turns about a picture."""
    talks, alone = trained(folder, ""), trained(folder, "alone-")
    assert right(checkpoint, talks, folder / "test.jsonl") >= 0.8
    assert right(checkpoint, talks, folder / "alone-test.jsonl") <= 0.5
    assert 0.35 <= right(checkpoint, alone, folder / "alone-test.jsonl") <= 0.5
