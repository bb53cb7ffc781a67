"""How fast the model answers, as measured at warm-up, and the times that are derived from it where none was set."""

import logging
from dataclasses import dataclass

from service.settings import Settings

log = logging.getLogger(__name__)

# The least times in seconds, which a fast model has; a slow one has so many times what it was measured to take.
_DEADLINE_S, _CANARY_S = 30.0, 30.0
_DEADLINE_TIMES, _CANARY_TIMES = 2.0, 4.0
# Tokens of an answer when the question does not say.
_ANSWER = 64


@dataclass
class Pace:
    """Seconds to the first token of a question about one picture, and for each token after it; 0 until measured."""

    settings: Settings
    first_s: float = 0.0
    token_s: float = 0.0

    @property
    def answer_s(self) -> float:
        """Seconds of one question about a picture with no other load, its answer of the default 64 tokens."""
        return self.first_s + (_ANSWER - 1) * self.token_s

    @property
    def deadline_s(self) -> float:
        """Seconds a request may take when it does not say: as set, or the larger of 30 and twice an answer's time."""
        return self.settings.deadline_s or max(_DEADLINE_S, _DEADLINE_TIMES * self.answer_s)

    @property
    def canary_deadline_s(self) -> float:
        """Seconds that the engine has to answer its canary, a question for one token, before it is started again.

        As set, or the larger of 30 and four times the first token's time.
        """
        return self.settings.engine_canary_deadline_s or max(_CANARY_S, _CANARY_TIMES * self.first_s)

    @property
    def slow(self) -> bool:
        """Whether twice an answer's time or four times a first token's is over the time set for it, or over 30 s.

        Then the warm-up measures once more, for the first measurement has work in it that is done only once.
        """
        return self.answer_s * _DEADLINE_TIMES > (
            self.settings.deadline_s or _DEADLINE_S
        ) or self.first_s * _CANARY_TIMES > (self.settings.engine_canary_deadline_s or _CANARY_S)

    def measured(self, first_s: float, token_s: float) -> None:
        """Take a measurement in place of the last one."""
        self.first_s, self.token_s = first_s, token_s

    def report(self) -> None:
        """Say what was measured and what follows; warn of times that were set too short for this model."""
        log.info(
            "speed: %.2f s to the first token about a picture, %.3f s a token; a request has %.0f s, the engine %.0f s "
            "to give a sign of life",
            self.first_s, self.token_s, self.deadline_s, self.canary_deadline_s,
        )  # fmt: skip
        for option, given, needed in (
            ("deadline_s", self.settings.deadline_s, self.answer_s),
            ("engine_canary_deadline_s", self.settings.engine_canary_deadline_s, self.first_s),
        ):
            if given is not None and given < needed:
                log.warning(
                    "option %s (VQA_%s): %g s are too short for this model, which took %.1f s alone: give more or "
                    "leave it out", option, option.upper(), given, needed,
                )  # fmt: skip
