"""One training of one case, and the shares of questions that it then answers rightly."""

import resource
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import safe_open

from service.members import MEMBERS, WEIGHTS
from service.members import members as members_of
from trainer.adapter.local import LocalAdapter
from trainer.commands.train import train
from trainer.config.training import TrainOptions
from trainer.data.row import Row
from trainer.data.rows import read_rows
from trainer.errors import NoGain
from trainer.evaluation.generate import predict
from trainer.evaluation.score import right
from trainer.model.checkpoint import Checkpoint
from trainer.model.features import States

Case = Literal["lora", "lora-image", "two-lora", "two-up", "mixture", "lavin"]
CASES: tuple[Case, ...] = ("lora", "lora-image", "two-lora", "two-up", "mixture", "lavin")
# A LoRA of rank 16 on the embedded model trains 58,368 numbers a layer; these come nearest to it.
RANKS: dict[Case, int] = {"lora": 16, "lora-image": 16, "two-lora": 8, "two-up": 10, "mixture": 10, "lavin": 101}
_COMPILED = ("two-up", "mixture", "lavin")


@dataclass(frozen=True, slots=True)
class Place:
    """Where the set, easy-VQA's pictures and the base lie, and how many passes over the rows a training makes."""

    work: Path
    pictures: Path
    base: Path
    epochs: float


@dataclass(frozen=True, slots=True)
class Right:
    """Shares of right answers: about pictures, to new facts and to old ones."""

    image: float
    text: float
    old: float


@dataclass(frozen=True, slots=True)
class Found:
    """The result of one training.

    `learnt` is how many numbers were trained, `seconds` is the training and its own scoring, `peak_gb` the most memory
    of the process, `megabytes` the size of the adapter's weights.
    """

    case: Case
    seed: int
    right: Right
    learnt: int
    seconds: float
    peak_gb: float
    megabytes: float


def train_and_score(place: Place, case: Case, seed: int) -> Found:
    """Train one case, and ask it the held-out rows."""
    began, name = time.perf_counter(), f"{case}-{seed}"
    if case == "two-lora":
        weights = place.work / name
        for member in MEMBERS:
            run = _train(place, f"{name}-{member}", case, seed, f"-{member}")
            shutil.copytree(run / "learnt", weights / member, dirs_exist_ok=True)
    else:
        weights = _train(place, name, case, seed, "-image" if case == "lora-image" else "") / "learnt"
    seconds = time.perf_counter() - began
    found = scored(place, LocalAdapter(case, weights, weights))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    size = sum((folder / WEIGHTS).stat().st_size for folder in members_of(weights).values())
    return Found(case, seed, found, _learnt(case, weights), round(seconds, 1), round(peak, 2), round(size / 1e6, 2))


def scored(place: Place, adapter: LocalAdapter | None) -> Right:
    """The shares of held-out questions that the base answers rightly through an adapter, or by itself."""
    checkpoint = Checkpoint.load(place.base)
    rows = [*read_rows(place.work / "test.jsonl", place.pictures / "images"), *read_rows(place.work / "old.jsonl", "")]
    states, said = States.of(checkpoint, rows), [""] * len(rows)

    def answer(places: Sequence[int]) -> None:
        part: list[Row] = [rows[number] for number in places]
        for number, found in zip(
            places, predict(checkpoint, checkpoint.model, part, states, "answers", 8), strict=True
        ):
            said[number] = found.text

    if adapter is None:
        answer(range(len(rows)))
    else:
        for member, places in adapter.by_member(rows).items():
            with adapter.applied_to(checkpoint.model, member):
                answer(places)
    hits: dict[str, list[bool]] = {"image": [], "text": [], "old": []}
    for row, text in zip(rows, said, strict=True):
        hits[row.category].append(right(row, text))
    return Right(**{kind: sum(each) / len(each) for kind, each in hits.items()})


def _train(place: Place, name: str, case: Case, seed: int, kind: str) -> Path:
    """Train on the rows of a kind, "" for both; returns the run's directory. What is no better is not published."""
    run, work = place.work / "runs" / name, place.work
    options: dict[str, Any] = {
        **{"name": name, "model": str(place.base), "data": str(work / f"train{kind}.jsonl"), "output": run},
        **{"images": "" if kind == "-text" else str(place.pictures / "images")},
        **{"eval_data": str(work / f"test{kind}.jsonl"), "store": work / "store", "feature_cache": work / "features"},
        **{"seed": seed, "epochs": place.epochs, "learning_rate": 2e-3, "rows_per_step": 32, "precision": "float32"},
        **{"experts": case if case in _COMPILED else "none"},
    }
    try:
        # The ranks that make the sizes equal are none that the option takes.
        train(TrainOptions.model_validate(options).model_copy(update={"rank": RANKS[case]}))
    except NoGain as error:
        print(error, file=sys.stderr)
    return run


def _learnt(case: Case, weights: Path) -> int:
    """The numbers that were trained: of a mixture the experts and tables, not what they compile to."""
    compiled = [folder / WEIGHTS for folder in members_of(weights).values()]
    return sum(_numbers(file) for file in ([weights / "model.safetensors"] if case in _COMPILED else compiled))


def _numbers(file: Path) -> int:
    with safe_open(file, "pt") as tensors:
        return sum(int(np.prod(tensors.get_slice(key).get_shape())) for key in tensors.keys())  # noqa: SIM118
