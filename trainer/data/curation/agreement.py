"""Several answers to one question -> the one that most give; knows nothing of where they come from."""

from collections import Counter
from collections.abc import Sequence

from trainer.data.dedupe import plain


def agreed(answers: Sequence[str], least: float) -> str | None:
    """The most common answer, as it was given first, if at least the share `least` (0 to 1) of all are it; else None.

    Case, space and outer punctuation make no difference.
    """
    counts = Counter(plain(answer) for answer in answers)
    if not counts:
        return None
    most, count = counts.most_common(1)[0]
    if count < least * len(answers):
        return None
    return next(answer for answer in answers if plain(answer) == most)
