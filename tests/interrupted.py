"""Trainings that end in the middle, in this process: quicker than a kill, and at a step of the test's choice."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from trainer.training.loop import TreeTrainer


class Interrupted(Exception):
    """Raised where the next step would begin."""


@contextmanager
def interrupted_after(steps: int) -> Iterator[None]:
    """Within the block a training takes `steps` steps and no more, and the block ends well only if it was stopped."""
    step, left = TreeTrainer.training_step, iter(range(steps))

    def limited(*arguments: Any, **named: Any) -> Any:
        if next(left, None) is None:
            raise Interrupted
        return step(*arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TreeTrainer, "training_step", limited)
        with pytest.raises(Interrupted):
            yield
