"""The training loop: transformers' Trainer, whose batch is a whole update, as forests. Knows no rows and no stores."""

import json
import logging
import math
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType
from torch.utils.data import SequentialSampler
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from trainer.config.training import LoopOptions
from trainer.disk import check_folder
from trainer.errors import LossDiverged, OptionError
from trainer.model.attention import kernel
from trainer.training.arguments import arguments_of, in_bfloat16, one_device, uses_bfloat16
from trainer.training.checkpoints import Checkpoints, last_complete
from trainer.training.lessons import Lessons
from trainer.training.meter import Bar, Meter
from trainer.training.objective import Likelihood, Objective, Sums
from trainer.training.optimizer import TABLE, give_rate, muon
from trainer.training.run import LEARNT, LOG, cut_log
from trainer.training.updates import Epochs, Shares, Updates, updates_of

log = logging.getLogger(__name__)


class TreeTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped
    """transformers' Trainer whose step is one update: the mean of the objective over all its forests."""

    bfloat16 = False
    objective: Objective
    figures: Sums
    table_rate: float | None = None
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
        count = self.objective.count(inputs)
        scale = self.accelerator.num_processes / self.accelerator.reduce(count).clamp(min=1)
        self.figures.add({}, count)
        loss = torch.zeros((), device=self.args.device)
        for forest in inputs["forests"]:
            with self._together(model, forest is inputs["forests"][-1]), self._products(forest):
                part, figures = self.objective(model, forest)
                part = part * scale
                self.accelerator.backward(part)
            loss += part.detach()
            self.figures.add(figures)
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
        """The objective's mean over the held-out rows, as `eval_loss`, and its figures likewise; logged.

        The loss is told by modality too where there are both; each item of the data is of one.
        """
        self.model.eval()
        total, kinds = Sums(), torch.zeros(2, 2, device=self.args.device)
        # Not inference_mode: FSDP keeps what it gathers here for the training that goes on.
        with torch.no_grad():
            for inputs in self.get_eval_dataloader():
                pictured = any(bool(forest["pictured"].any()) for forest in inputs["forests"])
                for forest in inputs["forests"]:
                    with self._products(forest):
                        loss, figures = self.objective(self.model, forest, held_out=True)
                    total.add({"loss": loss.float(), **figures})
                    kinds[int(pictured), 0] += loss.float()
                total.add({}, self.objective.count(inputs))
                kinds[int(pictured), 1] += self.objective.count(inputs)
        metrics = {f"eval_{name}": mean for name, mean in total.means(self.accelerator.reduce).items()}
        kinds = self.accelerator.reduce(kinds)
        if kinds[:, 1].all():
            text, image = (kinds[:, 0] / kinds[:, 1]).tolist()
            metrics |= {"eval_loss_text": text, "eval_loss_image": image}
        self._check(metrics["eval_loss"], f"the held-out rows, after step {self.state.global_step}")
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], *arguments: Any) -> None:
        """See transformers.Trainer; a point of the loss curve says how fast it was reached, and in what memory."""
        if "loss" in logs:
            logs = logs | self.figures.means() | self.meter.read(self.state)
            self.figures = Sums()
        super().log(logs, *arguments)

    def create_optimizer(self, *arguments: Any) -> Any:
        """See transformers.Trainer; a mixture's tables have a rate of their own."""
        optimizer = super().create_optimizer(*arguments)
        if self.table_rate is not None:
            tables = (each for name, each in self.model.named_parameters() if name.endswith(TABLE))
            give_rate(optimizer, tables, self.table_rate)
        return optimizer

    def floating_point_ops(self, _inputs: Any) -> int:
        """Always 0: transformers would count them for its own log, which nothing here reads."""
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
    """Sets the epoch of `Epochs`; accelerate does not where one of several processes resumes within an epoch."""

    def __init__(self, epochs: Epochs) -> None:
        self._epochs = epochs

    def on_epoch_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Tell the updates which epoch begins (transformers.TrainerCallback)."""
        self._epochs.set_epoch(int(state.epoch or 0))


class _Log(TrainerCallback):  # type: ignore[misc]
    """Appends every logged step to the run's log, so that a killed run keeps its curve."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def on_log(self, _args: Any, state: Any, _control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Append the logged values to the run's log file (transformers.TrainerCallback)."""
        if state.is_world_process_zero:
            with self._file.open("a") as file:
                file.write(json.dumps({"step": state.global_step, **(logs or {})}) + "\n")


def fit(
    model: Any,
    lessons: Lessons,
    options: LoopOptions,
    output: Path,
    objective: Objective | None = None,
) -> Path:
    """Train the parameters of `model` that learn, in place; returns the directory that holds them all.

    `objective` is minimised, by default the cross-entropy of answers. `output` has the loss curve and the checkpoints,
    the last and with --patience the best. Of several processes the first writes. With the optimizer muon all that
    learns has to be matrices.

    Raises:
        OptionError: muon where processes share out matrices, or no room for two checkpoints.
        LossDiverged: a loss is infinite or no number.
    """
    arguments = one_device(arguments_of(options, output, lessons.checkpointing))
    by_muon = options.optimizer == "muon"
    last = last_complete(output) if options.resume else None
    if arguments.should_save:
        check_folder("--output", output, _bytes_of_checkpoints(model))
        cut_log(output / LOG, int(last.name.rpartition("-")[2]) if last else 0)
    stop = [EarlyStoppingCallback(options.patience)] if options.patience else []
    updates = updates_of(lessons.trees, options), Updates(lessons.held_out, options.rows_per_step, None, apart=True)
    shares, held_out = (
        Shares(each, trees, lessons.budget, lessons.bend, lessons.sight, arguments.world_size)
        for each, trees in zip(updates, (lessons.trees, lessons.held_out), strict=True)
    )
    epochs = Epochs(shares)
    trainer = TreeTrainer(
        model=in_bfloat16(model, arguments.device.type) if uses_bfloat16(options) else model,
        args=arguments,
        train_dataset=shares,
        eval_dataset=held_out,
        data_collator=_only,
        optimizer_cls_and_kwargs=muon(options) if by_muon else None,
        callbacks=[_Log(output / LOG), Checkpoints(), *stop, _Epochs(epochs)],
    )
    if by_muon and (trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled):
        raise OptionError("--optimizer muon: DeepSpeed and FSDP share out the matrices that it needs whole: use adamw")
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Bar)
    trainer.bfloat16, trainer.epochs, trainer.meter = uses_bfloat16(options), epochs, Meter()
    trainer.objective, trainer.figures = objective or Likelihood(), Sums()
    trainer.table_rate = getattr(options, "rate_of_tables", None)
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


def _only(items: list[dict[str, Any]]) -> dict[str, Any]:
    """The one item of a "batch" of transformers, which is a share of an update."""
    (item,) = items
    return item
