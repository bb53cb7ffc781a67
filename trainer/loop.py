"""The training loop: transformers' Trainer over trees. Knows nothing of rows, stores or scores."""

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from trainer.batches import IGNORED, Batch, Tree
from trainer.config import TrainOptions
from trainer.model import loss_sum


class TreeTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped
    """Trainer whose step is the mean cross-entropy over a step's answer tokens, computed on trees."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """See transformers.Trainer; the mean is over all answer tokens of the step, however it is cut into batches."""
        batch = Batch(**inputs)
        count = num_items_in_batch if num_items_in_batch is not None else (batch.labels != IGNORED).sum()
        loss = loss_sum(model.get_base_model(), batch) / count
        return (loss, None) if return_outputs else loss


class _Log(TrainerCallback):  # type: ignore[misc]
    """Appends every logged step to the run's log, so that a killed run keeps its curve."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def on_log(self, _args: Any, state: Any, _control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """See transformers.TrainerCallback."""
        with self._file.open("a") as file:
            file.write(json.dumps({"step": state.global_step, **(logs or {})}) + "\n")


def fit(
    model: Any,
    trees: list[Tree],
    collate: Callable[[list[Tree]], Batch],
    options: TrainOptions,
    output: Path,
) -> list[dict[str, float]]:
    """Train `model`'s LoRA in place; returns what was logged. Checkpoints lie in `output`, one an epoch."""
    arguments = TrainingArguments(
        output_dir=str(output / "checkpoints"),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=options.warmup,
        weight_decay=0.0,
        logging_steps=10,
        logging_first_step=True,
        save_strategy="epoch",
        save_total_limit=1,
        seed=options.seed,
        data_seed=options.seed,
        report_to="none",
        remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        label_names=["labels"],
    )
    trainer = TreeTrainer(
        model=model,
        args=arguments,
        train_dataset=trees,
        data_collator=lambda batch: _fields(collate(batch)),
        callbacks=[_Log(output / "log.jsonl")],
    )
    trainer.train(resume_from_checkpoint=options.resume or None)
    model.eval()
    return list(trainer.state.log_history)


def _fields(batch: Batch) -> dict[str, torch.Tensor]:
    """A Batch as the dict that transformers moves between devices."""
    return {field.name: getattr(batch, field.name) for field in fields(batch)}
