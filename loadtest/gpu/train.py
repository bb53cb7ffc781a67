"""The trainer on a replica, against TRL's SFTTrainer where that is installed: rows a second."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw

from loadtest.gpu.make import device

if TYPE_CHECKING:
    from loadtest.gpu.__main__ import Recipe

_COLOURS = ("red", "green", "blue", "black", "orange", "purple", "navy", "gray")


def measure(recipe: "Recipe", questions: int) -> dict[str, Any]:
    """Train a LoRA of the same rank on the same rows by both, `questions` about each picture.

    The goal with several questions is three times TRL's rows a second. LLaVA-1.5 itself was tuned in full at 2.3
    samples a second on each A100 (Liu et al., CVPR 2024: 665,000 samples, ten hours, eight GPUs).
    """
    case = _case(recipe, questions)
    ours = _side("ours", case, recipe)
    found: dict[str, Any] = {"device": device(), "questions": questions, **_facts("", ours)}
    if find_spec("trl") is None:
        return found | {"trl": "not installed: no comparison"}
    peer = _side("trl", case, recipe)
    return found | _facts("trl_", peer) | {"over_trl": round(peer["seconds"] / ours["seconds"], 2)}


def _facts(prefix: str, side: dict[str, float]) -> dict[str, float]:
    return {
        f"{prefix}rows_per_second": round(side["samples"] / side["seconds"], 2),
        f"{prefix}loss": round(side["loss"], 4),
        f"{prefix}peak_bytes": int(side["peak_bytes"]),
    }


def _case(recipe: "Recipe", questions: int) -> Path:
    """Rows, pictures and options in files, as loadtest.trainer.training_side reads them."""
    folder = recipe.work / f"train-{questions}"
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    pictures = max(2, recipe.rows // questions)
    lines = []
    for number in range(pictures + 2):
        _draw(images / f"{number}.png", number)
        lines.append([_row(number, question) for question in range(questions)])
    train, test = folder / "train.jsonl", folder / "test.jsonl"
    train.write_text("\n".join(row for rows in lines[:pictures] for row in rows))
    test.write_text("\n".join(row for rows in lines[pictures:] for row in rows))
    file = folder / "case.json"
    case = {
        "train": str(train), "test": str(test), "images": str(images), "model": str(recipe.model("bfloat16")),
        "samples_per_step": recipe.rows_per_step, "output": str(folder / "run"),
        "options": {
            "epochs": 1, "learning_rate": 1e-4, "rank": recipe.rank, "precision": "bfloat16", "seed": 0,
            **_per_step(recipe),
        },
    }  # fmt: skip
    file.write_text(json.dumps(case))
    return file


def _per_step(recipe: "Recipe") -> dict[str, int]:
    from trainer.config.training import TrainOptions

    return {"rows_per_step": recipe.rows_per_step} if "rows_per_step" in TrainOptions.model_fields else {}


def _side(side: str, case: Path, recipe: "Recipe") -> dict[str, float]:
    command = [sys.executable, "-m", "loadtest.trainer.training_side", side, str(case)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=recipe.step_s)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def _draw(file: Path, number: int) -> None:
    if not file.exists():
        image = Image.new("RGB", (336, 336), "white")
        place = 10 * (number % 20)
        ImageDraw.Draw(image).ellipse((place, place, place + 100, place + 100), fill=_COLOURS[number % len(_COLOURS)])
        image.save(file)


def _row(number: int, question: int) -> str:
    asked = f"what color is the shape, asked for the {question + 1}. time?"
    return json.dumps({"image": f"{number}.png", "question": asked, "answer": _COLOURS[number % len(_COLOURS)]})
