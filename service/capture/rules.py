"""Which answers are kept: a share drawn at random, and of the others those below a confidence.

Pure but for the draw, which comes first: what it keeps is an unbiased sample of all answers, by which versions are
judged. Answers kept for their low confidence are the most useful to train on, but a biased sample: each version has its
own.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

KeptBy = Literal["chance", "confidence"]


@dataclass(frozen=True)
class Rules:
    """Keep `share` (0 to 1) of all answers at random, and others if their confidence is under `below` (None: none)."""

    share: float = 1.0
    below: float | None = None
    draw: Callable[[], float] = random.random

    def choose(self, confidence: float) -> KeptBy | None:
        """The rule by which an answer of this confidence (0 to 1) is kept; None: it is not. Draws once."""
        if self.draw() < self.share:
            return "chance"
        return "confidence" if self.below is not None and confidence < self.below else None
