"""`make bench-train`: the trainer against TRL's SFTTrainer on the same rows, alternating in one run.

Two cases: `many` (an image's questions share its tokens) and `one` (one question an image: nothing to share). Prints a
JSON line a case, and one of padding on a mix of a third text; draws docs/training.png. The ratio is of samples per
second, ours over TRL's: the median over rounds, with the smallest and the largest. Each round has its own seed, and
losses are medians.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import Field
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict

from loadtest.trainer.sides import in_turn, run, summary

SIDE = "loadtest.trainer.training_side"


class Bench(BaseSettings):
    """Train the same adapter by Manylens and by TRL in turn and compare speed, memory and held-out loss."""

    model_config = SettingsConfigDict(
        frozen=True, env_prefix="MANYLENS_", cli_kebab_case=True, cli_prog_name="python -m loadtest.trainer.training"
    )

    data: Path = Field(Path("build/data/shapes"), description="train.jsonl, test.jsonl and images/")
    model: str = Field("models/tiny-llava", description="the base checkpoint")
    images: int = Field(400, gt=0, description="training images")
    rounds: int = Field(3, gt=0, description="times that each side trains")
    samples_per_step: int = Field(64, gt=0, description="questions and answers in one update, on both sides")
    precision: str = Field("bfloat16", description="bfloat16 or float32, on both sides")
    picture: Path = Field(Path("docs/training.png"), description="where the picture goes")


def main(arguments: list[str]) -> int:
    """Measure, print and draw; returns the exit status."""
    options = CliApp.run(Bench, cli_args=arguments)
    results = []
    with TemporaryDirectory() as directory:
        for name in ("many", "one"):
            cases = [_case(options, name, Path(directory), seed) for seed in range(options.rounds)]
            found = summary(in_turn(SIDE, cases), "samples", "loss")
            results.append({"bench": "train", "case": name, **found})
            print(json.dumps(results[-1]), flush=True)
        share = run(SIDE, "padding", _case(options, "one", Path(directory), 0))
        print(json.dumps({"bench": "train", "case": "a third text", "padding": share}), flush=True)
    _draw(results, options.picture)
    return 0


def _case(options: Bench, name: str, directory: Path, seed: int) -> Path:
    """The rows of a case, and all that both sides need to know, in files."""
    by_image: dict[str, list[str]] = {}
    for line in (options.data / "train.jsonl").read_text().splitlines():
        by_image.setdefault(json.loads(line)["image"], []).append(line)
    images = list(by_image.values())[: options.images * (1 if name == "many" else 4)]
    rows = [line for lines in images for line in (lines if name == "many" else lines[:1])]
    train, test = directory / f"{name}.jsonl", directory / f"{name}-test.jsonl"
    train.write_text("\n".join(rows))
    test.write_text("\n".join((options.data / "test.jsonl").read_text().splitlines()[:1000]))
    case: dict[str, Any] = {
        "train": str(train),
        "test": str(test),
        "images": str(options.data / "images"),
        "model": options.model,
        "samples_per_step": options.samples_per_step,
        "output": str(directory / "run"),
        "options": {
            "epochs": 1,
            "learning_rate": 1e-3,
            "rank": 16,
            "precision": options.precision,
            "rows_per_step": options.samples_per_step,
            "seed": seed,
        },
    }
    file = directory / f"{name}-{seed}.json"
    file.write_text(json.dumps(case))
    return file


def _draw(results: list[dict[str, Any]], file: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 2.4), layout="constrained")
    labels = {"many": "all questions of an image", "one": "one question an image"}
    for place, result in enumerate(results):
        for offset, key, name, colour in (
            (-0.2, "samples_per_second", "Manylens", "#2a6f97"),
            (0.2, "peer_samples_per_second", "TRL SFTTrainer", "#adb5bd"),
        ):
            bar = axes.barh(place + offset, result[key], 0.36, color=colour, label=name if place == 0 else None)
            axes.bar_label(bar, fmt="%.0f", padding=3)
    axes.set_yticks(range(len(results)), [labels[result["case"]] for result in results])
    axes.invert_yaxis()
    axes.set_xlabel("training samples per second, 2 CPU cores")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(file, dpi=150)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
