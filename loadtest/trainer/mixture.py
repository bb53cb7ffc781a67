"""`make bench-mixture`: six ways to learn from pictures and from text, at about as many trained parameters.

The set is drawn: questions about easy-VQA's pictures, and questions of text alone, which ask for one word of a list.
Six ways to learn both are trained with the same rows, updates and rate, and asked the same held-out rows. `kept` are
questions of text alone of the base's own kind, which nothing is trained on: the share answered as the base does.
"""

import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict
from safetensors import safe_open

from service.checkpoint import locate
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

WORDS = ("red", "blue", "green", "black", "gray", "teal", "brown", "yellow", "circle", "triangle", "rectangle", "seven")
PLACES = ("first", "second", "last")
KEPT = (
    "what color is the circle?",
    "what shape is in the picture?",
    "is there a red shape?",
    "is there not a triangle in the picture?",
    "how many shapes are there?",
    "what is written?",
    "which digit is this?",
    "what color is the rectangle?",
    "is there a blue circle in the picture?",
    "which shape is green?",
)
Case = Literal["lora", "lora-image", "two-lora", "two-up", "mixture", "lavin"]
CASES: tuple[Case, ...] = ("lora", "lora-image", "two-lora", "two-up", "mixture", "lavin")
# A LoRA of rank 16 on the embedded model trains 58,368 numbers a layer; these come nearest to it.
RANKS: dict[Case, int] = {"lora": 16, "lora-image": 16, "two-lora": 8, "two-up": 10, "mixture": 10, "lavin": 101}


class Bench(BaseSettings):
    """Train and compare."""

    model_config = SettingsConfigDict(
        frozen=True, cli_kebab_case=True, cli_prog_name="python -m loadtest.trainer.mixture"
    )

    model: str = Field("models/tiny-llava", description="the base")
    pictures: Path = Field(Path("build/data/shapes"), description="easy-VQA's rows, as `make` writes them")
    work: Path = Field(Path("build/mixture"), description="where the set and the runs are kept")
    seeds: list[int] = Field([0, 1, 2], description="one training of each case with each")
    cases: list[Case] = Field(list(CASES), description="which cases")
    rows: int = Field(1500, gt=0, description="training rows of each kind")
    epochs: float = Field(5.0, gt=0, description="passes over them")
    one: str | None = Field(None, description="CASE-SEED: train that one in this process, and print it")


@dataclass(frozen=True)
class Found:
    """One training, asked."""

    case: Case
    seed: int
    image: float
    text: float
    kept: float
    learnt: int
    seconds: float
    peak_gb: float
    megabytes: float


def main(options: Bench) -> None:
    """Train what is not there yet, each in a process of its own, and print the table."""
    write_set(options)
    if options.one:
        named, _, number = options.one.rpartition("-")
        (case,) = (each for each in CASES if each == named)
        print(json.dumps(vars(one(options, case, int(number)))))
        return
    found = []
    for seed in options.seeds:
        for case in options.cases:
            file = options.work / f"{case}-{seed}.json"
            if not file.exists():
                command = [
                    sys.executable,
                    "-m",
                    "loadtest.trainer.mixture",
                    *_again(options),
                    "--one",
                    f"{case}-{seed}",
                ]
                out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                file.write_text(out.strip().splitlines()[-1] + "\n")
            found.append(Found(**json.loads(file.read_text())))
            print(json.dumps(vars(found[-1])), flush=True)
    print(table(found))


def write_set(options: Bench) -> None:
    """Rows with pictures and rows of text, `rows` of each to learn from and a fifth as many to be asked."""
    work = options.work
    if (work / "kept.jsonl").exists():
        return
    work.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", options.rows), ("test", options.rows // 5)):
        rng = np.random.default_rng((7, split == "test"))
        found = read_rows(options.pictures / f"{split}.jsonl", options.pictures / "images")
        chosen = [found[place] for place in rng.choice(len(found), count, replace=False)]
        pictured = [
            {"id": row.id, "image": Path(str(row.image)).name, "question": row.question, "answer": row.answer}
            | {"category": "image"}
            for row in chosen
        ]
        drawn = list(_texts(rng, count, odd=split == "test"))
        _write(work / f"{split}-image.jsonl", pictured)
        _write(work / f"{split}-text.jsonl", drawn)
        _write(work / f"{split}.jsonl", pictured + drawn)
    _write(work / "kept.jsonl", [{"question": q, "answer": "?", "category": "kept"} for q in KEPT])


def one(options: Bench, case: Case, seed: int) -> Found:
    """Train one case, and ask it."""
    began = time.perf_counter()
    if case == "two-lora":
        weights = options.work / f"{case}-{seed}"
        for member in MEMBERS:
            run = _train(
                options, f"{case}-{seed}-{member}", "none", RANKS[case], seed, f"train-{member}", f"test-{member}"
            )
            shutil.copytree(run / "learnt", weights / member, dirs_exist_ok=True)
    else:
        only = case == "lora-image"
        method = "none" if case.startswith("lora") else case
        files = ("train-image", "test-image") if only else ("train", "test")
        weights = _train(options, f"{case}-{seed}", method, RANKS[case], seed, *files) / "learnt"
    seconds, peak = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    image, text, kept = asked(options, LocalAdapter(case, weights, weights))
    files_of = [folder / WEIGHTS for folder in members_of(weights).values()]
    return Found(
        case, seed, image, text, kept, _learnt(case, weights), round(seconds, 1), round(peak, 2),
        round(sum(file.stat().st_size for file in files_of) / 1e6, 2),
    )  # fmt: skip


def asked(options: Bench, adapter: LocalAdapter) -> tuple[float, float, float]:
    """Right answers about pictures and to texts, and answers to other texts that are the base's, as shares."""
    checkpoint = Checkpoint.load(locate(options.model))
    images = options.pictures / "images"
    rows = [*read_rows(options.work / "test.jsonl", images), *read_rows(options.work / "kept.jsonl", "")]
    states = States.of(checkpoint, rows)

    def answers(part: Sequence[Row]) -> list[str]:
        return [said.text for said in predict(checkpoint, checkpoint.model, part, states, "answers", 8)]

    base, said = answers(rows), [""] * len(rows)
    for member, places in adapter.by_member(rows).items():
        with adapter.applied_to(checkpoint.model, member):
            for place, text in zip(places, answers([rows[place] for place in places]), strict=True):
                said[place] = text
    hits: dict[str, list[bool]] = {"image": [], "text": [], "kept": []}
    for row, before, text in zip(rows, base, said, strict=True):
        hits[row.category].append(text == before if row.category == "kept" else right(row, text))
    shares = [sum(each) / len(each) for each in hits.values()]
    return shares[0], shares[1], shares[2]


def table(found: Sequence[Found]) -> str:
    """A line a case: the mean over its seeds, and the lowest and highest."""
    lines = [
        "| case | image % | text % | kept % | trained numbers | seconds | peak GB | MB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for case in CASES:
        if own := [each for each in found if each.case == case]:
            cells = [_span([100 * getattr(each, name) for each in own]) for name in ("image", "text", "kept")]
            cells += [
                f"{own[0].learnt:,}",
                *(_span([getattr(each, n) for each in own]) for n in ("seconds", "peak_gb")),
            ]
            lines.append(f"| {case} | {' | '.join(cells)} | {own[0].megabytes:.2f} |")
    return "\n".join(lines)


def _span(values: Sequence[float]) -> str:
    mean = sum(values) / len(values)
    return f"{mean:.1f} ({min(values):.1f} to {max(values):.1f})"


def _train(options: Bench, name: str, method: str, rank: int, seed: int, rows: str, held_out: str) -> Path:
    run, work = options.work / "runs" / name, options.work
    asked_for = TrainOptions.model_validate(
        {
            **{"name": name, "model": options.model, "data": str(work / f"{rows}.jsonl"), "output": run},
            **{"images": "" if rows == "train-text" else str(options.pictures / "images")},
            **{"eval_data": str(work / f"{held_out}.jsonl")},
            **{"store": work / "store", "feature_cache": work / "features", "seed": seed, "epochs": options.epochs},
            **{"learning_rate": 2e-3, "rows_per_step": 64, "experts": method, "rank": 8, "precision": "float32"},
        }
    ).model_copy(update={"rank": rank})
    try:
        train(asked_for)
    except NoGain as error:
        print(error, file=sys.stderr)
    return run


def _learnt(case: Case, weights: Path) -> int:
    """The numbers that were trained: of a mixture the experts and tables, not what they compile to."""
    own = [weights / "model.safetensors"] if case in ("two-up", "mixture", "lavin") else None
    return sum(_numbers(file) for file in own or [folder / WEIGHTS for folder in members_of(weights).values()])


def _numbers(file: Path) -> int:
    with safe_open(file, "pt") as tensors:
        return sum(int(np.prod(tensors.get_slice(key).get_shape())) for key in tensors.keys())  # noqa: SIM118


def _texts(rng: np.random.Generator, count: int, odd: bool) -> Iterator[dict[str, Any]]:
    """Lists of three words, of which one is asked for; those to be asked are other lists than those learnt from."""
    while count:
        words = [int(word) for word in rng.choice(len(WORDS), 3, replace=False)]
        if (sum(words) % 5 == 0) != odd:
            continue
        place = int(rng.integers(3))
        question = f"which is {PLACES[place]}: {', '.join(WORDS[word] for word in words)}?"
        yield {"question": question, "answer": WORDS[words[place]], "category": "text"}
        count -= 1


def _write(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _again(options: Bench) -> list[str]:
    return [
        *("--model", options.model, "--pictures", str(options.pictures), "--work", str(options.work)),
        *("--rows", str(options.rows), "--epochs", str(options.epochs)),
    ]


if __name__ == "__main__":
    main(CliApp.run(Bench, cli_args=sys.argv[1:]))
