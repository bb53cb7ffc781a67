"""One training of the comparison in a process: `python -m loadtest.trainer.preference_side ours|trl CASE.json`.

Both sides get the same pairs, base, LoRA, optimiser, schedule, precision and pairs a step; the last line printed is
JSON. What is timed is all work on the data, from image files to trained weights: features, tokens, reference, steps.
"""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from loadtest.trainer.sides import peer_settings
from trainer.adapter.lora import add_lora
from trainer.config.training import TrainOptions
from trainer.data.row import Row
from trainer.data.rows import read_rows
from trainer.evaluation.comparison import preferred
from trainer.model.checkpoint import Checkpoint
from trainer.model.features import States
from trainer.model.forest import bend_of, grow
from trainer.model.tokens import encode
from trainer.training.arguments import uses_bfloat16
from trainer.training.lessons import Lessons
from trainer.training.loop import fit
from trainer.training.prepare import TOKENS, most_branches
from trainer.training.reference import preference


def main(side: str, case: dict[str, Any]) -> dict[str, float]:
    """Train one side; returns seconds, pairs, the share of held-out pairs that it prefers rightly, and peak bytes."""
    rows, held_out = (read_rows(str(file), case["images"]) for file in (case["train"], case["test"]))
    options = TrainOptions.model_validate(
        {"name": "bench", "data": case["train"], "method": "dpo", "log_steps": 10, **case["options"]}
    )
    checkpoint = Checkpoint.load(Path(case["model"]), bfloat16=side == "ours" and uses_bfloat16(options))
    model = add_lora(checkpoint.model, options)
    started = time.perf_counter()
    (_ours if side == "ours" else _trl)(checkpoint, model, rows, options, case)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    model.eval()
    found = preferred(checkpoint, held_out, States.of(checkpoint, held_out)).mean
    return {"seconds": seconds, "pairs": len(rows) * options.epochs, "preferred": found, "peak_bytes": peak}


def _ours(checkpoint: Checkpoint, model: Any, rows: list[Row], options: TrainOptions, case: dict[str, Any]) -> None:
    """The trainer's own path, with one pair held out."""
    output = Path(case["output"])
    output.mkdir(parents=True, exist_ok=True)
    sight = States.of(checkpoint, rows)
    trees, few = (
        grow(encode(part, checkpoint.prompt, checkpoint.image_shape[0], form="paired"), most_branches(options), TOKENS)
        for part in (rows, rows[:1])
    )
    bend = bend_of(checkpoint.hidden_size, checkpoint.model.device.type == "cuda")
    lessons = Lessons(trees, few, sight, TOKENS, bend)
    fit(model, lessons, options, output, preference(options, model, checkpoint.precision, lessons, output))


def _trl(_checkpoint: Checkpoint, model: Any, rows: list[Row], options: TrainOptions, case: dict[str, Any]) -> None:
    """TRL's DPOTrainer; the texts are whole, as in loadtest/trainer/training_side.py.

    It is left to compute the reference in each step, as it does by default: in one epoch that is as often as before it.
    """
    from datasets import Dataset, Image
    from transformers import AutoProcessor
    from trl import DPOConfig, DPOTrainer

    lines = [
        {
            "images": [row.image],
            "prompt": f"<s> USER: <image>\n{row.question} ASSISTANT:",
            "chosen": f" {row.answer}</s>",
            "rejected": f" {row.rejected}</s>",
        }
        for row in rows
    ]
    dataset = Dataset.from_list(lines).cast_column("images", [Image(decode=True)])
    arguments = DPOConfig(beta=options.strength, **peer_settings(options, case["output"]))
    processor = AutoProcessor.from_pretrained(case["model"])
    DPOTrainer(model=model, args=arguments, train_dataset=dataset, processing_class=processor).train()


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[2]).read_text())
    print(json.dumps(main(sys.argv[1], given)))
