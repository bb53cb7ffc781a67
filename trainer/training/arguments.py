"""The trainer's options as transformers' Trainer takes them."""

import logging
from os import environ
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from trainer.config.training import LoopOptions
from trainer.model.precision import has_bfloat16
from trainer.training.checkpoints import CHECKPOINTS

log = logging.getLogger(__name__)
# transformers' names; each has the warmup.
_SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
_OPTIMIZERS = {"adamw-8bit": "adamw_bnb_8bit"}


def arguments_of(options: LoopOptions, output: Path, checkpointing: bool = False) -> TrainingArguments:
    """The arguments of transformers' Trainer, by which it keeps its checkpoints below `output`."""
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


def deepspeed_holds_bfloat16(options: LoopOptions) -> bool:
    """Whether DeepSpeed is to hold its weights in bfloat16; the launcher's own word on precision is dropped.

    All else computes by `in_bfloat16` over weights as they are: accelerate's FSDP in bfloat16 would round the loss too.
    """
    bfloat16 = environ.get("ACCELERATE_USE_DEEPSPEED") == "true" and uses_bfloat16(options)
    environ["ACCELERATE_MIXED_PRECISION"] = "bf16" if bfloat16 else "no"  # read by transformers and accelerate
    return bfloat16


def uses_bfloat16(options: LoopOptions) -> bool:
    """Whether matrices multiply in bfloat16; weights of the adapter and the loss stay in float32."""
    return has_bfloat16() if options.precision == "auto" else options.precision == "bfloat16"


def in_bfloat16(model: Any, device: str) -> Any:
    """Have a model's forward pass multiply matrices in bfloat16; returns the same model.

    Autocast is entered within `forward`, not around the call, since DeepSpeed's engine turns it off before it calls.
    """
    model.forward = torch.autocast(device, torch.bfloat16)(model.forward)
    return model
