"""One training of the comparison, in a process of its own: `python -m loadtest.training_side ours|trl|plain CASE.json`.

All sides get the same rows, base, LoRA, optimiser, schedule, precision and samples per step; the last line printed is
JSON. What is timed is all work on the data, from image files to trained weights: features, tokens, steps.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from trainer.batches import IGNORED, collate, grow
from trainer.config import TrainOptions
from trainer.data.rows import Row, read_rows
from trainer.features import Features
from trainer.loop import fit, uses_bfloat16
from trainer.model import Checkpoint, add_lora, loss_sum


def main(side: str, case: dict[str, Any]) -> dict[str, float]:
    """Train one side and score it on the held-out rows; returns seconds, samples, loss and peak bytes."""
    rows, held_out = (read_rows(str(file), case["images"]) for file in (case["train"], case["test"]))
    options = TrainOptions(
        name="bench", data=case["train"], images=case["images"], feature_cache=None, **case["options"]
    )
    checkpoint = Checkpoint.load(Path(case["model"]))
    model = add_lora(checkpoint.model, options)
    started = time.perf_counter()
    sides: dict[str, Callable[..., None]] = {"ours": _ours, "plain": partial(_ours, questions=1), "trl": _trl}
    sides[side](checkpoint, model, rows, options, case)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    loss = _loss(checkpoint, model.get_base_model(), held_out)
    samples = len(rows) * options.epochs
    return {"seconds": seconds, "samples": samples, "loss": loss, "peak_bytes": peak}


def _ours(
    checkpoint: Checkpoint, model: Any, rows: list[Row], options: TrainOptions, case: dict[str, Any], questions: int = 0
) -> None:
    """The trainer's own path; with one question a sequence it is the plain one."""
    features = Features.of(checkpoint, rows, bfloat16=uses_bfloat16(options))
    trees = grow(rows, checkpoint.prompt, features.tokens, questions or options.questions_per_sequence)
    per_tree = len(rows) / len(trees)
    sized = options.model_copy(update={"batch_size": max(1, round(case["samples_per_step"] / per_tree))})
    batch = partial(collate, features=features, pad_id=checkpoint.prompt.pad_token_id)
    fit(model, trees, trees[:1], batch, sized, Path(case["output"]))


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
    arguments = SFTConfig(
        output_dir=case["output"],
        num_train_epochs=options.epochs,
        per_device_train_batch_size=case["samples_per_step"],
        learning_rate=options.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=options.warmup,
        weight_decay=0.0,
        gradient_checkpointing=False,  # on by default; off here as on our side
        bf16=options.precision == "bfloat16",
        completion_only_loss=True,
        max_length=None,
        save_strategy="no",
        logging_steps=10,
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        seed=options.seed,
    )
    processor = AutoProcessor.from_pretrained(case["model"])
    SFTTrainer(model=model, args=arguments, train_dataset=dataset, processing_class=processor).train()


def _loss(checkpoint: Checkpoint, llava: Any, rows: list[Row]) -> float:
    """Mean cross-entropy of the held-out answers, one question a sequence: the same measure for all sides."""
    features = Features.of(checkpoint, rows)
    trees, total, count = grow(rows, checkpoint.prompt, features.tokens, 1), 0.0, 0
    llava.eval()
    with torch.inference_mode():
        for start in range(0, len(trees), 64):
            batch = collate(trees[start : start + 64], features, checkpoint.prompt.pad_token_id)
            total += float(loss_sum(llava, batch))
            count += int((batch.labels != IGNORED).sum())
    return total / count


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], json.loads(Path(sys.argv[2]).read_text()))))
