"""Whether one share is larger than another: a sequential test, which may be looked at after every answer.

A test at a fixed level that is repeated at every look finds a difference sooner or later where there is none. This one
is a likelihood ratio that is a supermartingale where the share is not larger: by Ville's inequality it reaches 1/level
with a chance of at most `level`, over all looks together, however many and whenever (Robbins, "Statistical methods
related to the law of the iterated logarithm", 1970; Johari et al., "Always valid inference", Operations Research 70,
2022).

The difference of two shares, in information time I = 1 / variance, moves as Brownian motion does, whatever part of the
questions each version gets (Jennison and Turnbull, "Group Sequential Methods", 2000, ch. 3.1). Against "no larger"
stands a mixture of all positive differences with half-normal weights of scale SCALE (Howard et al., "Time-uniform,
nonparametric, nonasymptotic confidence sequences", Annals of Statistics 49, 2021: the one-sided normal mixture). The
variance is the pooled one of "no difference". That is exact for large counts alone; tests/test_canary_evidence.py
counts wrong decisions at small ones.
"""

import math
from typing import NamedTuple

# The size of a difference that it finds with the fewest answers, 10 percentage points; others take more.
SCALE = 0.1


class Share(NamedTuple):
    """`hits` out of `of`."""

    hits: int
    of: int


def evidence(larger: Share, than: Share) -> float:
    """The evidence, over 0, that the share `larger` is larger than `than`: 1 is none, 1/level is enough at that level.

    1 where one of them is of nothing.
    """
    if not (larger.of and than.of):
        return 1.0
    pooled = (larger.hits + than.hits + 1) / (larger.of + than.of + 2)
    information = 1 / (pooled * (1 - pooled) * (1 / larger.of + 1 / than.of))
    moved = (larger.hits / larger.of - than.hits / than.of) * information
    spread = 1 + SCALE**2 * information
    position = moved * SCALE / math.sqrt(spread)
    normal = max(0.5 * math.erfc(-position / math.sqrt(2)), 1e-300)
    return math.exp(min(math.log(2 * normal) - 0.5 * math.log(spread) + position**2 / 2, 700))
