"""Optimisers and learning rates that transformers' Trainer does not know."""

from collections.abc import Iterable
from typing import Any

import torch

from trainer.config.training import LoopOptions

# What the parameters are called that have a rate of their own: the tables of trainer/adapter/mixture.py.
TABLE = "mixture_table"


def muon(options: LoopOptions) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """PyTorch's class of Muon (Jordan 2024) and its arguments.

    Its steps are scaled to the size of AdamW's (Liu et al. 2025, arXiv 2502.16982), so that AdamW's rates serve.
    """
    return torch.optim.Muon, {
        "lr": options.learning_rate,
        "weight_decay": options.weight_decay,
        "adjust_lr_fn": "match_rms_adamw",
    }


def give_rate(optimizer: torch.optim.Optimizer, parameters: Iterable[torch.nn.Parameter], rate: float) -> None:
    """Have an optimiser's `parameters` learn at a rate of their own, without weight decay."""
    own = list(parameters)
    ids = {id(parameter) for parameter in own}
    for group in optimizer.param_groups:
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in ids]
    optimizer.add_param_group({"params": own, "lr": rate, "weight_decay": 0.0})


def timed_optimizer(options: LoopOptions, model: Any) -> torch.optim.Optimizer:
    """The optimiser that a plan of time runs: AdamW in place of that in 8 bits, which takes about as long."""
    learns = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if options.optimizer != "muon":
        return torch.optim.AdamW(learns, lr=options.learning_rate, fused=True)
    kind, how = muon(options)
    return kind(learns, **how)
