"""How every stage learns: Muon for the matrices inside layers, AdamW for the rest, a short warm-up, a linear end."""

from collections.abc import Iterable

import torch
from torch import nn


class Optimiser:
    """Muon and AdamW over one model's parameters that require a gradient, with their schedule.

    Muon (Jordan 2024) for matrices; embeddings, norms and heads are AdamW's, as its author advises.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], steps: int, *, muon: float, adamw: float) -> None:
        trained = [(name, parameter) for name, parameter in named if parameter.requires_grad]
        inner = {name for name, p in trained if p.ndim == 2 and (".layers." in name or "projector" in name)}
        others = [parameter for name, parameter in trained if name not in inner]
        matrices = [parameter for name, parameter in trained if name in inner]
        self._optimisers = [
            torch.optim.Muon(matrices, lr=muon, momentum=0.95, weight_decay=0.0, ns_steps=3),
            torch.optim.AdamW(others, lr=adamw, weight_decay=0.01, betas=(0.9, 0.98)),
        ]
        self._schedules = [
            torch.optim.lr_scheduler.LambdaLR(
                optimiser, lambda step: min(1, (step + 1) / 60) * min(1, 1.6 * (1 - step / steps))
            )
            for optimiser in self._optimisers
        ]

    def step(self, loss: torch.Tensor) -> None:
        """One step down the gradient of `loss`."""
        for optimiser in self._optimisers:
            optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for optimiser, schedule in zip(self._optimisers, self._schedules, strict=True):
            optimiser.step()
            schedule.step()
