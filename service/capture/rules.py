"""Which answers are kept: a share drawn by chance, and those below a confidence.

Pure but for the draw. The draw comes first: what it keeps is a fair sample of all answers, which is what versions are
judged by. What a confidence alone keeps teaches most, and is a biased sample: each version's own doubtful answers.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

KeptBy = Literal["chance", "confidence"]


@dataclass(frozen=True)
class Rules:
    """`share` of all answers by chance; others if their confidence is under `below`."""

    share: float = 1.0
    below: float | None = None
    draw: Callable[[], float] = random.random

    def choose(self, confidence: float) -> KeptBy | None:
        """By what an answer is kept; None: it is not."""
        if self.draw() < self.share:
            return "chance"
        return "confidence" if self.below is not None and confidence < self.below else None
