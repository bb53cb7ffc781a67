"""`make bench-dpo`: DPO beside TRL's DPOTrainer on the same pairs, with one pair a picture and with five.

Pictures of coloured discs are drawn by a seed; each colour has a number of its own, which questions ask for. Prints a
JSON line a case: pairs a second, ours over TRL's, in rounds that alternate, each side in a process of its own: the
median, with the smallest and the largest; peak memory; and the share of held-out pairs that each trained adapter
prefers rightly.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from pydantic import Field
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict

from loadtest.trainer.sides import in_turn, summary

MODEL = "models/tiny-llava"
COLOURS = ("red", "green", "blue", "black", "orange", "purple")
QUESTIONS = ("what is the code?", "which code is it?", "code?", "say the code", "what number is this?")


class Bench(BaseSettings):
    """Train by DPO as Manylens and as TRL do, in turn."""

    model_config = SettingsConfigDict(
        frozen=True,
        env_prefix="MANYLENS_",
        cli_kebab_case=True,
        cli_prog_name="python -m loadtest.trainer.preference",
    )

    work: Path = Field(Path("build/dpo"), description="where pictures, pairs and runs are kept")
    pairs: int = Field(400, gt=0, description="pairs that are trained on, in both cases of the comparison")
    rounds: int = Field(3, gt=0, description="times that each side trains in each case")
    precision: str = Field("float32", description="bfloat16 or float32, on both sides")


def main(arguments: list[str]) -> int:
    """Draw, train, measure and print; returns the exit status."""
    options = CliApp.run(Bench, cli_args=arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    for each in (1, 5):
        print(json.dumps(_speed(options, each)), flush=True)
    return 0


def draw(folder: Path, count: int, seed: int) -> list[tuple[str, int]]:
    """Write so many different pictures; returns their names and codes."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number in range(count):
        colour = int(rng.integers(len(COLOURS)))
        left, top, side = (int(each) for each in (rng.integers(2, 24), rng.integers(2, 24), rng.integers(20, 38)))
        image = Image.new("RGB", (64, 64), "white")
        ImageDraw.Draw(image).ellipse((left, top, left + side, top + side), fill=COLOURS[colour])
        image.putpixel((0, 0), (255, number % 256, number // 256))  # no two are alike
        image.save(folder / f"{number}.png")
        found.append((f"{number}.png", colour + 1))
    return found


def _pairs(pictures: list[tuple[str, int]], each: int, seed: int) -> list[dict[str, str]]:
    """So many pairs a picture: its code, and another."""
    rng = np.random.default_rng(seed)
    return [
        {"image": image, "question": question, "chosen": str(code), "rejected": str((code + rng.integers(5)) % 6 + 1)}
        for image, code in pictures
        for question in QUESTIONS[:each]
    ]


def _write(file: Path, rows: list[dict[str, str]]) -> str:
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(file)


def _speed(options: Bench, each: int) -> dict[str, Any]:
    folder = options.work / f"pairs-{each}"
    pictures = draw(folder / "images", options.pairs // each + 100, 0)
    case = {
        "train": _write(folder / "train.jsonl", _pairs(pictures[100:], each, 1)),
        "test": _write(folder / "test.jsonl", _pairs(pictures[:100], 1, 2)),
        "images": str(folder / "images"),
        "model": MODEL,
        "output": str(folder / "run"),
    }
    cases = []
    for seed in range(options.rounds):
        asked = {"precision": options.precision, "seed": seed, "learning_rate": 1e-3, "epochs": 1, "rows_per_step": 20}
        cases.append(folder / f"case-{seed}.json")
        cases[-1].write_text(json.dumps({**case, "options": asked}))
    runs = in_turn("loadtest.trainer.preference_side", cases)
    return {"bench": "dpo", "case": f"{each} a picture", **summary(runs, "pairs", "preferred")}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
