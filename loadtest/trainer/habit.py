"""`make bench-habit`: a habit that SFT keeps, and what a few corrections make of it, by DPO and by SFT.

Pictures of coloured discs are drawn by a seed; each of six colours has a number. The rows that the first adapter learns
from were labelled by somebody who gives two of the colours another's number, always. Then people judge answers about
all colours: the right one, and a wrong one, which for those two colours is the habit's. (Of pairs about those two alone
either training unlearns the other colours.) Three trainings go on from that adapter with as many updates: on its own
rows, on the right answers, and by DPO with an SFT term on the pairs (without the term both answers become unlikely, and
something else is said). Prints the right answers about pictures that nothing was trained on, of the colours with the
habit and of the others, with 95% intervals.
"""

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict

from loadtest.trainer.preference import MODEL, QUESTIONS, draw
from trainer.commands.evaluate import evaluate
from trainer.commands.train import train
from trainer.config.evaluation import EvaluateOptions
from trainer.config.training import TrainOptions
from trainer.evaluation.intervals import Interval
from trainer.evaluation.result import MAIN_METRIC, percent

# Colours by their numbers, and the number that the labeller gives them instead.
HABIT = {2: 3, 6: 1}
_FIRST = "habit"


class Bench(BaseSettings):
    """Teach a habit, and correct it."""

    model_config = SettingsConfigDict(
        frozen=True, env_prefix="MANYLENS_", cli_kebab_case=True, cli_prog_name="python -m loadtest.trainer.habit"
    )

    work: Path = Field(Path("build/habit"), description="where pictures, rows and runs are kept")
    pictures: int = Field(120, gt=0, description="pictures that the first adapter learns from, a question each")
    corrections: int = Field(300, gt=0, description="pairs, a picture each")
    held_out: int = Field(300, gt=0, description="pictures that are asked about")
    seed: int = Field(0, ge=0, description="of the pictures and the trainings")


def main(arguments: list[str]) -> int:
    """Draw, train, ask and print; returns the exit status."""
    options = CliApp.run(Bench, cli_args=arguments)
    write_set(options)
    for name, right in found(options, trained(options)).items():
        shares = {kind: percent(share) for kind, share in right.items()}
        print(json.dumps({"bench": "habit", "adapter": name, **shares}), flush=True)
    return 0


def write_set(options: Bench) -> None:
    """Rows with the habit, corrections as pairs and as rows, and held-out rows; no picture is in two of them."""
    work = options.work
    drawn = draw(work / "images", options.pictures + options.held_out + options.corrections, options.seed)
    first, rest = drawn[: options.pictures], drawn[options.pictures :]
    asked, corrected = rest[: options.held_out], rest[options.held_out :]
    _write(work / "habit.jsonl", [_row(n, image, HABIT.get(code, code)) for n, (image, code) in enumerate(first)])
    _write(work / "corrections.jsonl", [_row(n, image, code) for n, (image, code) in enumerate(corrected)])
    _write(work / "pairs.jsonl", [_pair(n, image, code) for n, (image, code) in enumerate(corrected)])
    kinds = ["habit" if code in HABIT else "others" for _, code in asked]
    _write(work / "test.jsonl", [_row(n, *each, kinds[n]) for n, each in enumerate(asked)])
    _write(work / "test-pairs.jsonl", [_pair(n, *each) for n, each in enumerate(asked) if each[1] in HABIT])


def trained(options: Bench) -> dict[str, Path]:
    """Every run's directory by what it is called: the first, and the three that go on from it."""
    first = _train(options, _FIRST, "habit", "test", epochs=20, learning_rate=3e-3, rank=8)
    go_on = {"init_adapter": str(first), "max_steps": 60, "epochs": 100, "learning_rate": 7e-4}
    return {
        _FIRST: first,
        "more-of-it": _train(options, "more-of-it", "habit", "test", **go_on),
        "sft": _train(options, "sft", "corrections", "test", **go_on),
        "dpo": _train(options, "dpo", "pairs", "test-pairs", **go_on, method="dpo", sft_weight=1.0),
    }


def found(options: Bench, runs: dict[str, Path]) -> dict[str, dict[str, Interval]]:
    """Of each run the share of right answers to rows of the colours with the habit, of the others, and to all."""
    asked = evaluate(
        EvaluateOptions(
            adapter=[str(run) for run in runs.values()],
            data=str(options.work / "test.jsonl"),
            images=str(options.work / "images"),
            model=MODEL,
            max_tokens=4,
            blind_rows=0,
        )
    )
    return {
        name: {each.category: each.adapter for each in evaluation.measures if each.metric == MAIN_METRIC}
        for name, evaluation in zip(runs, asked, strict=True)
    }


def _row(number: int, image: str, said: int, kind: str = "all") -> dict[str, Any]:
    return {"image": image, "question": QUESTIONS[number % len(QUESTIONS)], "answer": str(said), "category": kind}


def _pair(number: int, image: str, code: int) -> dict[str, Any]:
    asked = {"image": image, "question": QUESTIONS[number % len(QUESTIONS)]}
    taken = {given: code for code, given in HABIT.items()}  # whose number the habit gives to another
    return {**asked, "chosen": str(code), "rejected": str(HABIT.get(code) or taken.get(code) or code % 6 + 1)}


def _write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def _train(options: Bench, name: str, rows: str, held_out: str, **others: Any) -> Path:
    work = options.work
    run = work / "runs" / name
    if not (run / "report.html").exists():
        train(
            TrainOptions.model_validate(
                {
                    **{"name": name, "model": MODEL, "images": str(work / "images"), "output": run},
                    **{"data": str(work / f"{rows}.jsonl"), "eval_data": str(work / f"{held_out}.jsonl")},
                    **{"store": work / "store", "feature_cache": work / "features", "seed": options.seed},
                    **{"rows_per_step": 20, "precision": "float32", **others},
                }
            )
        )
    return run


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
