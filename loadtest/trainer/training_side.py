"""One training of the comparison, in a process of its own: `… loadtest.trainer.training_side ours|trl|plain CASE.json`.

With `padding` nothing is trained: the share of padding in an epoch's forests is told, a third of the rows being text.

All sides get the same rows, base, LoRA, optimiser, schedule, precision and samples per step; the last line printed is
JSON. What is timed is all work on the data, from image files to trained weights: features, tokens, steps.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from loadtest.trainer.sides import peer_settings
from service.prompt import Prompt
from trainer.adapter.lora import add_lora
from trainer.config.training import TrainOptions
from trainer.data.row import Row
from trainer.data.rows import read_rows
from trainer.model.checkpoint import Checkpoint
from trainer.model.features import States
from trainer.model.forest import bend_of, collate, grow
from trainer.model.forward import loss_sum
from trainer.model.tokens import encode
from trainer.training.arguments import uses_bfloat16
from trainer.training.lessons import Lessons
from trainer.training.loop import fit
from trainer.training.prepare import TOKENS, most_branches
from trainer.training.updates import Shares, Updates


def main(side: str, case: dict[str, Any]) -> dict[str, float]:
    """Train one side and score it on the held-out rows; returns seconds, samples, loss and peak bytes."""
    rows, held_out = (read_rows(str(file), case["images"]) for file in (case["train"], case["test"]))
    options = TrainOptions.model_validate(
        {"name": "bench", "data": case["train"], "images": case["images"], "log_steps": 10, **case["options"]}
    )
    checkpoint = Checkpoint.load(Path(case["model"]), bfloat16=side != "trl" and uses_bfloat16(options))
    model = add_lora(checkpoint.model, options)
    started = time.perf_counter()
    sides: dict[str, Callable[..., None]] = {"ours": _ours, "plain": partial(_ours, branches=1), "trl": _trl}
    sides[side](checkpoint, model, rows, options, case)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    loss = _loss(checkpoint, model.get_base_model(), held_out)
    samples = len(rows) * options.epochs
    return {"seconds": seconds, "samples": samples, "loss": loss, "peak_bytes": peak}


def padding(case: dict[str, Any]) -> dict[str, float]:
    """Shares of padding where a third of the rows has no image, by the machine whose costs the packing weighs."""
    rows = read_rows(case["train"], case["images"])
    mixed = [replace(row, image=None) if number % 3 == 0 else row for number, row in enumerate(rows)]
    config = json.loads((Path(case["model"]) / "config.json").read_text())
    vision, width = config["vision_config"], config["text_config"]["hidden_size"]
    own = (vision["image_size"] // vision["patch_size"]) ** 2
    machines = {"this base, CPU": (own, bend_of(width, False)), "this base, GPU": (own, bend_of(width, True))}
    machines |= {"7B, GPU": (576, bend_of(4096, True))}
    found = {}
    for name, (image_tokens, bend) in machines.items():
        trees = grow(encode(mixed, Prompt(Path(case["model"])), image_tokens), 1, TOKENS)
        shares = Shares(Updates(trees, case["samples_per_step"], 0), trees, TOKENS, bend, None)
        updates = [shares[update] for update in range(len(shares))]
        area = sum(forest["trees"].numel() for update in updates for forest in update["forests"])
        found[name] = round(1 - sum(update["tokens"] for update in updates) / area, 4)
    return found


def _ours(
    checkpoint: Checkpoint, model: Any, rows: list[Row], options: TrainOptions, case: dict[str, Any], branches: int = 0
) -> None:
    """The trainer's own path; with one row a tree it is the plain one."""
    sight = States.of(checkpoint, rows)
    tokens = encode(rows, checkpoint.prompt, checkpoint.image_shape[0], checkpoint.context)
    trees, few = (
        grow(part, branches or most_branches(options), TOKENS)
        for part in (tokens, encode(rows[:1], checkpoint.prompt, checkpoint.image_shape[0]))
    )
    bend = bend_of(checkpoint.hidden_size, checkpoint.model.device.type == "cuda")
    fit(model, Lessons(trees, few, sight, TOKENS, bend), options, Path(case["output"]))


def _trl(_checkpoint: Checkpoint, model: Any, rows: list[Row], options: TrainOptions, case: dict[str, Any]) -> None:
    """TRL's SFTTrainer in prompt-completion form, so that its loss, too, is of answers only.

    The texts are whole, with the tokens that begin and end them: from llava-hf's chat template TRL takes neither, and
    what it trains then is asked otherwise than it learnt (held-out loss 5.9 where this form gives what ours does).
    """
    from datasets import Dataset, Image
    from transformers import AutoProcessor
    from trl import SFTConfig, SFTTrainer

    lines = [
        {
            "images": [row.image],
            "prompt": f"<s> USER: <image>\n{row.question} ASSISTANT:",
            "completion": f" {row.answer}</s>",
        }
        for row in rows
    ]
    dataset = Dataset.from_list(lines).cast_column("images", [Image(decode=True)])
    arguments = SFTConfig(completion_only_loss=True, **peer_settings(options, case["output"]))
    processor = AutoProcessor.from_pretrained(case["model"])
    SFTTrainer(model=model, args=arguments, train_dataset=dataset, processing_class=processor).train()


def _loss(checkpoint: Checkpoint, llava: Any, rows: list[Row]) -> float:
    """Mean cross-entropy of the held-out answers, one question a sequence: the same measure for all sides."""
    sight, total, count = States.of(checkpoint, rows), 0.0, 0
    trees = grow(encode(rows, checkpoint.prompt, checkpoint.image_shape[0]), 1)
    llava.eval()
    with torch.inference_mode(), checkpoint.precision():
        for start in range(0, len(trees), 64):
            batch = collate(trees, [[tree] for tree in range(start, min(start + 64, len(trees)))], sight)
            total += float(loss_sum(llava, batch))
            count += len(batch.labels)
    return total / count


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[2]).read_text())
    print(json.dumps(padding(given) if sys.argv[1] == "padding" else main(sys.argv[1], given)))
