"""The training loop: transformers' Trainer, whose batch is a whole update, as forests. Knows no rows and no stores."""

import json
import logging
import math
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from os import environ
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType
from torch.utils.data import SequentialSampler
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from trainer.config.commands import LoopOptions
from trainer.disk import check_folder
from trainer.errors import LossDiverged, OptionError
from trainer.model.attention import kernel
from trainer.model.checkpoint import has_bfloat16
from trainer.model.forest import Sight, Trees
from trainer.training.checkpoints import CHECKPOINTS, Checkpoints, last_complete
from trainer.training.memory_plan import Need
from trainer.training.meter import Bar, Meter
from trainer.training.run import LEARNT, LOG, cut_log
from trainer.training.updates import Epochs, Order, Shares

log = logging.getLogger(__name__)
# transformers' names; each has the warmup.
_SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
_OPTIMIZERS = {"adamw-8bit": "adamw_bnb_8bit"}


@dataclass(frozen=True)
class Lessons:
    """What is trained on: trees to learn from, trees held out, and what is known of their images."""

    trees: Trees
    held_out: Trees
    sight: Sight | None
    # Tokens of a forest, and the length of a sequence at which attention costs as much as all else.
    budget: int
    bend: float
    # Whether activations are computed twice to hold fewer.
    checkpointing: bool = False
    # What that was planned to take, where it was.
    planned: Need | None = None


class TreeTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped
    """Trainer whose step is the mean cross-entropy over an update's answer tokens, however many forests hold them."""

    bfloat16 = False
    meter: Meter
    epochs: Epochs
    control: Any

    def training_step(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> torch.Tensor:
        """See transformers.Trainer; forward and backward of each forest of this process's share of the update.

        Raises:
            LossDiverged: the update's loss is infinite or no number.
        """
        model.train()
        inputs = self._prepare_inputs(inputs)
        # Processes' gradients are averaged, and the count is of all of them.
        scale = self.accelerator.num_processes / self.accelerator.reduce(inputs["answers"]).clamp(min=1)
        loss = torch.zeros((), device=self.args.device)
        for forest in inputs["forests"]:
            with self._together(model, forest is inputs["forests"][-1]), self._products(forest):
                part = model(**forest) * scale
                self.accelerator.backward(part)
            loss += part.detach()
        self._check(loss, f"step {self.state.global_step + 1} of {self.state.max_steps}")
        self.meter.count(inputs)
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
        with torch.no_grad():
            for inputs in self.get_eval_dataloader():
                for forest in inputs["forests"]:
                    with self._products(forest):
                        total[0] += self.model(**forest).float()
                total[1] += inputs["answers"]
        loss, count = self.accelerator.reduce(total).tolist()
        metrics = {"eval_loss": loss / count}
        self._check(loss, f"the held-out rows, after step {self.state.global_step}")
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], *arguments: Any) -> None:
        """See transformers.Trainer; a point of the loss curve says how fast it was reached, and in what memory."""
        super().log(logs | self.meter.read(self.state) if "loss" in logs else logs, *arguments)

    def floating_point_ops(self, _inputs: Any) -> int:
        """None are counted."""
        return 0

    @contextmanager
    def _together(self, model: Any, last: bool) -> Iterator[None]:
        """Processes exchange gradients once an update, with its last forest."""
        self.accelerator.gradient_state._set_sync_gradients(last)
        kinds = (DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)
        alone = not last and self.accelerator.distributed_type in kinds
        with self.accelerator.no_sync(model) if alone else nullcontext():
            yield

    def _products(self, forest: dict[str, torch.Tensor]) -> AbstractContextManager[Any]:
        return kernel(forest["trees"].shape[1])

    def _get_train_sampler(self, _train_dataset: Any = None) -> Any:
        return self.epochs

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        return SequentialSampler(eval_dataset)


class _Epochs(TrainerCallback):  # type: ignore[misc]
    """Tells the order its epoch; accelerate would not where one of several processes goes on within an epoch."""

    def __init__(self, epochs: Epochs) -> None:
        self._epochs = epochs

    def on_epoch_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """See transformers.TrainerCallback."""
        self._epochs.set_epoch(int(state.epoch or 0))


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
    lessons: Lessons,
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
    arguments = one_device(_arguments(options, output, lessons.checkpointing))
    muon = options.optimizer == "muon"
    last = last_complete(output) if options.resume else None
    if arguments.should_save:
        check_folder("--output", output, _bytes_of_checkpoints(model))
        cut_log(output / LOG, int(last.name.rpartition("-")[2]) if last else 0)
    stop = [EarlyStoppingCallback(options.patience)] if options.patience else []
    shares, unseen = (
        Shares(
            Order(trees, options.rows_per_step, seed, options.group_by_modality),
            trees,
            lessons.budget,
            lessons.bend,
            lessons.sight,
            arguments.world_size,
        )
        for trees, seed in ((lessons.trees, options.seed), (lessons.held_out, None))
    )
    epochs = Epochs(shares)
    trainer = TreeTrainer(
        model=in_bfloat16(model, arguments.device.type) if uses_bfloat16(options) else model,
        args=arguments,
        train_dataset=shares,
        eval_dataset=unseen,
        data_collator=_only,
        optimizer_cls_and_kwargs=_muon(options) if muon else None,
        callbacks=[_Log(output / LOG), Checkpoints(), *stop, _Epochs(epochs)],
    )
    if muon and (trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled):
        raise OptionError("--optimizer muon: DeepSpeed and FSDP share out the matrices that it needs whole: use adamw")
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Bar)
    trainer.bfloat16, trainer.epochs, trainer.meter = uses_bfloat16(options), epochs, Meter()
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
    """Keep transformers from splitting batches over all GPUs by DataParallel, which would part pictures and trees.

    On CPUs, the device is the CPU.
    """
    if arguments.n_gpu > 1:  # asked before it is set: asking counts the GPUs
        log.info(
            "this process uses one of %d GPUs; `accelerate launch -m trainer train …` trains on all", arguments.n_gpu
        )
        arguments._n_gpu = 1
    if arguments.device.type == "cpu":
        # Of several processes on CPUs accelerate numbers the devices, and torch loads no checkpoint onto "cpu:1".
        arguments.__dict__["_setup_devices"] = arguments.distributed_state.device = torch.device("cpu")
    return arguments


def in_bfloat16(model: Any, device: str) -> Any:
    """Have a model's forward pass multiply matrices in bfloat16, by whatever it is called.

    Not where it is called: DeepSpeed's engine turns autocast off before it calls the model.
    """
    model.forward = torch.autocast(device, torch.bfloat16)(model.forward)
    return model


def deepspeed_holds_bfloat16(options: LoopOptions) -> bool:
    """Whether DeepSpeed is to hold its weights in bfloat16; the launcher's own word on precision is dropped.

    All else computes by `in_bfloat16` over weights as they are: accelerate's FSDP in bfloat16 would round the loss too.
    """
    bfloat16 = environ.get("ACCELERATE_USE_DEEPSPEED") == "true" and uses_bfloat16(options)
    environ["ACCELERATE_MIXED_PRECISION"] = "bf16" if bfloat16 else "no"  # read by transformers and accelerate
    return bfloat16


def _arguments(options: LoopOptions, output: Path, checkpointing: bool = False) -> TrainingArguments:
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
        per_device_train_batch_size=1,  # a share of an update
        per_device_eval_batch_size=1,
        gradient_checkpointing=checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
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
        bf16=deepspeed_holds_bfloat16(options),
        dataloader_pin_memory=torch.cuda.is_available(),
        dataloader_num_workers=options.workers,
        label_names=["answers"],
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


def timed_optimizer(options: LoopOptions, model: Any) -> torch.optim.Optimizer:
    """The optimiser as a plan times it; that in 8 bits takes about what AdamW does."""
    learns = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if options.optimizer != "muon":
        return torch.optim.AdamW(learns, lr=options.learning_rate, fused=True)
    kind, how = _muon(options)
    return kind(learns, **how)


def uses_bfloat16(options: LoopOptions) -> bool:
    """Whether matrices multiply in bfloat16; weights of the adapter and the loss stay in float32."""
    return has_bfloat16() if options.precision == "auto" else options.precision == "bfloat16"


def _only(items: list[dict[str, Any]]) -> dict[str, Any]:
    """The one item of a "batch" of transformers, which is a share of an update."""
    (item,) = items
    return item
