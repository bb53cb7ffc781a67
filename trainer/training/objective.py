"""What a training minimises: the loss of a forest, and how many things it is a mean over. Knows no rows and no loop."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch


class Objective(Protocol):
    """A loss that is a mean over an update, whose forests come one by one."""

    def count(self, inputs: dict[str, Any]) -> torch.Tensor:
        """How many answer tokens or pairs of `inputs`, which `Shares` gives, the loss is a mean over: a tensor."""
        ...

    def __call__(
        self, model: Any, forest: dict[str, torch.Tensor], held_out: bool = False
    ) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """The sum of the loss over a forest, given as the fields of a `Batch`, and of figures that are logged."""
        ...


class Likelihood:
    """Cross-entropy of the right answers' tokens, in nats a token: supervised fine-tuning."""

    def count(self, inputs: dict[str, Any]) -> torch.Tensor:
        """The number of answer tokens in the batch, which the loss is divided by."""
        answers: torch.Tensor = inputs["answers"]
        return answers

    def __call__(
        self,
        model: Any,
        forest: dict[str, torch.Tensor],
        held_out: bool = False,  # noqa: ARG002 - both sides have the same loss
    ) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """See `Objective`."""
        return model(**forest), {}


class Sums:
    """Figures summed over forests, and what they are means over."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._count: torch.Tensor | None = None

    def add(self, figures: Mapping[str, torch.Tensor], count: torch.Tensor | None = None) -> None:
        """One more forest's sums, or what an update's are means over."""
        for name, figure in figures.items():
            self._sums[name] = self._sums[name] + figure.detach() if name in self._sums else figure.detach()
        if count is not None:
            self._count = count if self._count is None else self._count + count

    def means(self, reduce: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor) -> dict[str, float]:
        """Each figure's mean; `reduce` sums a tensor over processes, each of which has the same figures."""
        if not self._sums or self._count is None:
            return {}
        sums = torch.stack([*(each.float() for each in self._sums.values()), self._count.float()])
        *found, count = reduce(sums).tolist()
        return {name: total / max(count, 1) for name, total in zip(self._sums, found, strict=True)}
