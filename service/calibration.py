"""How often answers of some confidence were right: what a version's `calibration.json` says, and what it makes of one.

The trainer fits it on rows that were held out (trainer/evaluation/calibration.py); here are only the arithmetic of a
fitted curve and the checks of its file. The file lies beside the manifest, so that a service which does not know it
still reads the version; a format that is not known is passed over, a file that is broken is refused.
"""

import json
import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

FILE = "calibration.json"
FORMAT = 1
# The largest file that is read: the bounds below come to 60 KB.
_MOST_BYTES = 1_000_000
MOST_POINTS, MOST_STEPS = 200, 1000
# A confidence of 0 or 1 has no log-odds: it is taken for one this far from it.
NEAREST = 1e-6

Share = Annotated[float, Field(ge=0, le=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Covered(_Frozen):
    """Of all answers the share `coverage` has a confidence of at least `threshold`; of these `risk` is wrong."""

    threshold: Share
    coverage: Share
    risk: Share


class CalibrationErrors(_Frozen):
    """What confidences were worth on rows that the fit had not seen: see trainer/evaluation/confidence.py."""

    ece: Share
    brier: Share


class Calibration(_Frozen):
    """A map from a model's own confidence to the share of such answers that is right.

    `platt`: 1 / (1 + exp(-(slope * log-odds + intercept))); `isotonic`: straight lines between `steps`, each a
    confidence with its share, both rising. `curve` has the thresholds from the highest down, with what they did on rows
    that the fit had not seen; `before` and `after` are of the same rows.
    """

    format: Literal[1] = 1
    method: Literal["platt", "isotonic"]
    slope: FiniteFloat = Field(1.0, gt=0)
    intercept: FiniteFloat = 0.0
    steps: tuple[tuple[Share, Share], ...] = Field((), max_length=MOST_STEPS)
    curve: tuple[Covered, ...] = Field(min_length=1, max_length=MOST_POINTS)
    rows: int = Field(gt=0, description="questions it was fitted to")
    images: int = Field(ge=0, description="different pictures of these")
    before: CalibrationErrors
    after: CalibrationErrors
    precision: str = Field(description="of the base that was asked")
    made: str = Field(description="UTC, ISO 8601")
    trainer: str = Field(description="what made it, with its version")

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.method == "isotonic" and not self.steps:
            raise ValueError("an isotonic calibration has steps")
        for name, values in (
            ("steps", [sure for sure, _ in self.steps]),
            ("the shares of steps", [share for _, share in self.steps]),
            ("the curve's thresholds", [-point.threshold for point in self.curve]),
            ("the curve's coverages", [point.coverage for point in self.curve]),
        ):
            if any(later < earlier for earlier, later in pairwise(values)):
                raise ValueError(f"{name} are not in order")
        return self

    def __call__(self, confidence: float) -> float:
        """The share of answers with this confidence that is right; both from 0 to 1."""
        if self.method == "platt":
            return sigmoid(self.slope * log_odds(confidence) + self.intercept)
        return _between(self.steps, confidence)

    def at(self, threshold: float) -> Covered | None:
        """What becomes of it when answers below a calibrated confidence are not given; None: no row reached it."""
        place = bisect_right([-point.threshold for point in self.curve], -threshold)
        return self.curve[place - 1] if place else None


def read_calibration(folder: Path) -> Calibration | None:
    """What the file in a version's folder says; None: there is none, or it is of a later format. It blocks.

    Raises:
        ValueError: the file is no calibration; pydantic's errors are ValueErrors too.
        OSError: it cannot be read now.
    """
    try:
        with (folder / FILE).open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        return None
    if len(content) > _MOST_BYTES:
        raise ValueError(f"it has over {_MOST_BYTES:,} bytes")
    said = json.loads(content)
    if not isinstance(said, dict):
        raise ValueError("it is not a JSON object")
    if isinstance(said.get("format"), int) and said["format"] > FORMAT:
        return None
    return Calibration.model_validate(said)


def log_odds(confidence: float) -> float:
    """The natural logarithm of a probability over its opposite; at most that of `NEAREST` away from 0 and 1."""
    kept = min(max(confidence, NEAREST), 1 - NEAREST)
    return math.log(kept / (1 - kept))


def sigmoid(value: float) -> float:
    """The probability whose log-odds are `value`."""
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))


def _between(steps: Sequence[tuple[float, float]], value: float) -> float:
    place = bisect_left(steps, value, key=lambda step: step[0])
    if place == 0:
        return steps[0][1]
    if place == len(steps):
        return steps[-1][1]
    (low, under), (high, over) = steps[place - 1], steps[place]
    return under + (over - under) * (value - low) / (high - low)
