"""Chooses which question is asked next, so that each wording and each subject is answered yes about as often as no.

Where a wording was mostly answered no, a model learnt to answer it without the picture (docs/log.md).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable

import numpy as np

from trainer.data.annotations.questions import UnwordedQuestion
from trainer.data.annotations.wordings import Wordings

# How many more answers of one sort a subject may have than of the other; a wording may have one.
_SUBJECT = 2


class Ledger:
    """Counts of answers by wording, and by subject within a kind, of everything asked so far."""

    def __init__(self, wordings: Wordings) -> None:
        self._wordings = wordings.by_kind
        # By wording, and by kind and subject: how many True flags more than False ones.
        self._lead: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._used: Counter[tuple[str, str]] = Counter()
        self.answers: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)

    def choose(
        self, possible: Iterable[UnwordedQuestion], rng: np.random.Generator
    ) -> tuple[UnwordedQuestion, str] | None:
        """The question of `possible`, all of one kind, that evens out the answers most, with its wording.

        Of equals one is drawn by `rng`. None: each of them would make the answers too uneven.
        """
        best: tuple[UnwordedQuestion, str] | None = None
        least: tuple[float, ...] = ()
        for asked in possible:
            for wording in self._wordings.get(asked.kind, ()):
                if (owed := self._owed(asked, wording)) is None:
                    continue
                rank = (*owed, rng.random())
                if best is None or rank < least:
                    best, least = (asked, wording), rank
        if best:
            self._add(*best)
        return best

    def _owed(self, asked: UnwordedQuestion, wording: str) -> tuple[int, int] | None:
        """A rank, the smallest asked first: by the answers of wording and subject, then by how often these were used.

        None where the wording or the subject has had this answer too often.
        """
        used = self._used[asked.kind, wording] + self._used[asked.kind, f"\0{asked.subject}"]
        if asked.flag is None:
            return 0, used
        sign = 1 if asked.flag else -1
        by_wording = sign * self._lead[asked.kind, wording]
        by_subject = sign * self._lead[asked.kind, f"\0{asked.subject}"]
        if by_wording >= 1 or by_subject >= _SUBJECT:
            return None
        return 2 * by_wording + by_subject, used

    def _add(self, asked: UnwordedQuestion, wording: str) -> None:
        self.answers[asked.kind, wording][asked.answer] += 1
        for key in ((asked.kind, wording), (asked.kind, f"\0{asked.subject}")):
            self._used[key] += 1
            if asked.flag is not None:
                self._lead[key] += 1 if asked.flag else -1
