"""The training loop: transformers' Trainer over trees. Knows nothing of rows, stores or scores."""

import json
import logging
import math
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import SequentialSampler
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

from trainer.batches import IGNORED, Batch, Tree
from trainer.checkpoints import CHECKPOINTS, Checkpoints, last_complete
from trainer.config import LoopOptions
from trainer.errors import LossDiverged, OptionError
from trainer.order import LengthOrder
from trainer.places import check_folder
from trainer.run import LEARNT, LOG, cut_log

log = logging.getLogger(__name__)
# transformers' names; each has the warmup.
_SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
_OPTIMIZERS = {"adamw-8bit": "adamw_bnb_8bit"}


class TreeTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped
    """Trainer whose step is the mean cross-entropy over a step's answer tokens, computed on trees."""

    bfloat16 = False
    order: LengthOrder | None = None
    control: Any

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """See transformers.Trainer; the mean is over all answer tokens of the step, however it is cut into batches."""
        count = num_items_in_batch if num_items_in_batch is not None else (inputs["labels"] != IGNORED).sum()
        with self._precision():
            # Processes' gradients are averaged, and `count` is of all of them.
            loss = model(**inputs) / count * (self.accelerator.num_processes if num_items_in_batch is not None else 1)
        return (loss, None) if return_outputs else loss

    def training_step(self, *args: Any, **inputs: Any) -> Any:
        """See transformers.Trainer.

        Raises:
            LossDiverged: the step's loss is infinite or no number.
        """
        with _attention():  # around the backward pass too, which computes anew what checkpointing did not keep
            loss = super().training_step(*args, **inputs)
        self._check(loss, f"step {self.state.global_step + 1} of {self.state.max_steps}")
        return loss

    def _check(self, loss: Any, where: str) -> None:
        if not math.isfinite(float(loss)):
            bfloat16 = ", or --precision float32" if self.bfloat16 else ""
            raise LossDiverged(
                f"the loss is {float(loss)} at {where}: begin afresh with a lower --learning-rate (it is"
                f" {self.args.learning_rate:g}), a longer --warmup or a lower --clip{bfloat16}"
            )

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Mean cross-entropy over the held-out answer tokens, as `eval_loss`, logged."""
        self.model.eval()
        total = torch.zeros(2, device=self.args.device)
        # Not inference_mode: FSDP keeps what it gathers here for the training that goes on.
        with torch.no_grad(), self._precision(), _attention():
            for inputs in self.get_eval_dataloader():
                count = (inputs["labels"] != IGNORED).sum()
                total += torch.stack([self.model(**inputs).float(), count.float()])
        loss, count = self.accelerator.reduce(total).tolist()
        metrics = {"eval_loss": loss / count}
        self._check(loss, f"the held-out rows, after step {self.state.global_step}")
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.args.device.type, torch.bfloat16) if self.bfloat16 else nullcontext()

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return super()._get_train_sampler(train_dataset) if self.order is None else self.order

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        return SequentialSampler(eval_dataset)


class _Epochs(TrainerCallback):  # type: ignore[misc]
    """Tells the order its epoch; accelerate would not where one of several processes goes on within an epoch."""

    def __init__(self, order: LengthOrder) -> None:
        self._order = order

    def on_epoch_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """See transformers.TrainerCallback."""
        self._order.set_epoch(int(state.epoch or 0))


class _Log(TrainerCallback):  # type: ignore[misc]
    """Appends every logged step to the run's log, so that a killed run keeps its curve."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def on_log(self, _args: Any, state: Any, _control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """See transformers.TrainerCallback."""
        if state.is_world_process_zero:
            with self._file.open("a") as file:
                file.write(json.dumps({"step": state.global_step, **(logs or {})}) + "\n")


def fit(
    model: Any,
    trees: list[Tree],
    held_out: list[Tree],
    collate: Callable[[list[Tree]], Batch],
    options: LoopOptions,
    output: Path,
) -> Path:
    """Train what of `model` learns, in place; returns the directory that holds it, whole whoever had which part.

    The curve lies in `output`, and checkpoints do, the last and the best. Only one of several processes writes. With
    the optimizer muon all that learns has to be matrices.

    Raises:
        OptionError: muon where processes share out matrices, or no room for two checkpoints.
        LossDiverged: the loss is no number any more.
    """
    arguments = one_device(_arguments(options, output))
    muon = options.optimizer == "muon"
    last = last_complete(output) if options.resume else None
    if arguments.should_save:
        check_folder("--output", output, _bytes_of_checkpoints(model))
        cut_log(output / LOG, int(last.name.rpartition("-")[2]) if last else 0)
    stop = [EarlyStoppingCallback(options.patience)] if options.patience else []
    together = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    order = LengthOrder(trees, together, options.seed) if options.group_by_length else None
    trainer = TreeTrainer(
        model=model,
        args=arguments,
        train_dataset=trees,
        eval_dataset=held_out,
        data_collator=lambda batch: _fields(collate(batch)),
        optimizer_cls_and_kwargs=_muon(options) if muon else None,
        callbacks=[_Log(output / LOG), Checkpoints(), *stop, *([_Epochs(order)] if order else [])],
    )
    if muon and (trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled):
        raise OptionError("--optimizer muon: DeepSpeed and FSDP share out the matrices that it needs whole: use adamw")
    trainer.bfloat16, trainer.order = uses_bfloat16(options), order
    if options.resume:
        log.info("going on from %s", last.name if last else "the beginning: no checkpoint was complete")
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    _save(trainer, output)
    model.eval()
    return output / LEARNT


def _save(trainer: Trainer, output: Path) -> None:
    """Write what was learnt; it takes its name once it is whole."""
    part = output / f".{LEARNT}.part"
    trainer.save_model(str(part))
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        if (output / LEARNT).exists():
            shutil.rmtree(output / LEARNT)
        part.rename(output / LEARNT)
    trainer.accelerator.wait_for_everyone()


def _bytes_of_checkpoints(model: Any) -> int:
    """Of two at once: each has the weights that learn and two moments of each."""
    learns = (each for each in model.parameters() if each.requires_grad)
    return 2 * 3 * sum(int(each.numel() * each.element_size()) for each in learns)


def one_device(arguments: TrainingArguments) -> TrainingArguments:
    """Keep transformers from splitting batches over all GPUs by DataParallel, which would part pictures and trees."""
    if arguments.n_gpu > 1:  # asked before it is set: asking counts the GPUs
        log.info(
            "this process uses one of %d GPUs; `accelerate launch -m trainer train …` trains on all", arguments.n_gpu
        )
        arguments._n_gpu = 1
    return arguments


def _arguments(options: LoopOptions, output: Path) -> TrainingArguments:
    strategy = "steps" if options.save_steps else "epoch"
    best = {
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
        "eval_strategy": strategy,
        "eval_steps": options.save_steps,
        "restore_callback_states_from_checkpoint": True,  # how long patience has lasted
    }
    return TrainingArguments(
        output_dir=str(output / CHECKPOINTS),
        run_name=output.name,
        num_train_epochs=options.epochs,
        max_steps=options.max_steps or -1,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=options.batch_size,
        gradient_accumulation_steps=options.accumulate,
        gradient_checkpointing=options.gradient_checkpointing,
        learning_rate=options.learning_rate,
        lr_scheduler_type=_SCHEDULES[options.schedule],
        warmup_steps=options.warmup,
        weight_decay=options.weight_decay,
        max_grad_norm=options.clip,
        optim=_OPTIMIZERS.get(options.optimizer, "adamw_torch_fused"),
        logging_nan_inf_filter=False,
        logging_steps=options.log_steps,
        logging_first_step=True,
        seed=options.seed,
        data_seed=options.seed,
        report_to=list(options.track) or "none",
        remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        label_names=["labels"],
        save_strategy=strategy,
        save_steps=options.save_steps or 1,
        **(best if options.patience else {"eval_strategy": "epoch"}),
    )


def _muon(options: LoopOptions) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """Jordan 2024, steps scaled to the size of AdamW's (Liu et al. 2025, arXiv 2502.16982), whose rates then serve."""
    return torch.optim.Muon, {
        "lr": options.learning_rate,
        "weight_decay": options.weight_decay,
        "adjust_lr_fn": "match_rms_adamw",
    }


def uses_bfloat16(options: LoopOptions) -> bool:
    """Whether matrices multiply in bfloat16; weights of the adapter and the loss stay in float32."""
    if options.precision != "auto":
        return options.precision == "bfloat16"
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    abilities = torch.cpu.get_capabilities()
    return bool(abilities.get("avx512_bf16") or abilities.get("amx_bf16"))


def _attention() -> AbstractContextManager[Any]:
    """On CPU plain products beat PyTorch's flash kernel under a mask: 24 trees took 0.33 s instead of 0.42."""
    return nullcontext() if torch.cuda.is_available() else sdpa_kernel(SDPBackend.MATH)


def _fields(batch: Batch) -> dict[str, torch.Tensor]:
    """A Batch as the dict that transformers moves between devices."""
    return {field.name: getattr(batch, field.name) for field in fields(batch)}
