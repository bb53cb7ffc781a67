"""How long a training will take, found before it starts: its first updates are run on images without content."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image

from trainer.model.attention import kernel
from trainer.model.checkpoint import Checkpoint
from trainer.model.forest import Batch
from trainer.model.forward import loss_sum, tower_states
from trainer.training.updates import Shares

# Updates that are timed behind one that is not, in which kernels are chosen and memory is first touched; no new one
# begins after so many seconds.
_UPDATES, _SECONDS = 3, 30.0


def blank(checkpoint: Checkpoint) -> Callable[[Sequence[str]], dict[str, torch.Tensor]]:
    """A `Sight` of states without content, (images, image tokens, tower's hidden size)."""
    return lambda images: {"states": torch.zeros(len(images), *checkpoint.image_shape, dtype=checkpoint.dtype)}


def seconds_an_update(checkpoint: Checkpoint, model: Any, shares: Shares, optimizer: torch.optim.Optimizer) -> float:
    """Seconds of one update, forward, backward and the optimiser's step, the mean of up to three behind a first one.

    What learns of the checkpoint's `model` is changed by steps on images without content: it is of no use after.
    """
    model.train()
    spent: list[float] = []
    for item in range(min(_UPDATES + 1, len(shares))):
        began = time.perf_counter()
        for forest in shares[item]["forests"]:
            batch = Batch(**forest).to(checkpoint.model.device)
            with kernel(batch.trees.shape[1]):
                with checkpoint.precision():
                    loss = loss_sum(checkpoint.model, batch)
                loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        _finish()
        spent.append(time.perf_counter() - began)
        if sum(spent) > _SECONDS:
            break
    counted = spent[1:] or spent
    return sum(counted) / len(counted)


def seconds_an_image(checkpoint: Checkpoint) -> float:
    """Seconds that the tower takes for one of several images, decoding not counted."""
    count = max(1, min(16, 2048 // checkpoint.image_shape[0]))
    pixels = checkpoint.processor(images=[Image.new("RGB", (64, 64))] * count, return_tensors="pt").pixel_values
    began = time.perf_counter()
    with checkpoint.precision():
        tower_states(checkpoint.model, pixels)
    _finish()
    return (time.perf_counter() - began) / count


def duration(seconds: float) -> str:
    """A time for people: "40 s", "12 min", "3.5 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
