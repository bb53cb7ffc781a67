"""What a training learns from: prepare.py makes it, loop.py takes it."""

from dataclasses import dataclass

from trainer.model.forest import Sight, Trees
from trainer.training.memory_plan import Need


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
