"""What is known of a request while it is worked on; at its end the Answer, and its one record in log and metrics."""

import logging
import math
import time
from dataclasses import dataclass, field

from service.calibration import Calibration
from service.errors import NotCalibrated
from service.metrics import Metrics
from service.tracing import note
from service.types import Abstention, Adapter, Answer, Choice, Delta, Query, Question, Release, Timing, Token, Usage

log = logging.getLogger(__name__)


@dataclass
class Progress:
    """One request so far.

    `image_s` and `queue_s` are the seconds that its images and its waits took, `first_token_s` those from its
    acceptance to the first token. `member` is the part of a mixture that answers (image, text), "" of any other
    adapter. `told` are the answer's tokens, where the question asked for `logprobs`.
    """

    question: Question
    adapter: Adapter | None = None
    release: Release | None = None
    member: str = ""
    query: Query | None = None
    queue_s: float = 0.0
    image_s: float = 0.0
    first_token_s: float = 0.0
    last: Delta | None = None
    choices: tuple[Choice, ...] = ()
    none_of_these: float | None = None
    calibration: Calibration | None = None
    told: list[Token] = field(default_factory=list)
    _tokens: int = 0
    _started: float = field(default_factory=time.perf_counter)

    def elapsed(self) -> float:
        """Seconds from its acceptance until now."""
        return time.perf_counter() - self._started

    def hear(self, delta: Delta) -> None:
        """Take over one delta of the engine: its time if it is the first, its tokens, and it as the last one."""
        self.first_token_s = self.first_token_s or self.elapsed()
        self._tokens += delta.tokens
        self.last = delta
        self.told += delta.told

    @property
    def tokens(self) -> int:
        """Tokens of the answer that the engine has made by now, with those that no delta has brought yet."""
        made = self.last.made if self.last else None
        return self._tokens if made is None else made()

    def answer(self, text: str) -> Answer:
        """The Answer of a request that ended well, whose whole text is `text`."""
        last, image_tokens = self.last, self._image_tokens()
        assert last is not None  # it ended well
        usage = Usage(last.prompt_tokens, self.tokens, image_tokens)
        timing = Timing(self.image_s, self.queue_s, self.first_token_s, self.elapsed())
        finish, confidence = last.finish_reason or "stop", math.exp(last.logprob)
        calibrated = self.calibration(confidence) if self.calibration else None
        return Answer(
            id=self.question.id,
            text=text,
            confidence=confidence,
            adapter=self.adapter,
            finish_reason=finish,
            usage=usage,
            timing=timing,
            choices=self.choices,
            tokens=tuple(self.told),
            calibrated=calibrated,
            abstention=self._abstention(calibrated),
            none_of_these=self.none_of_these,
        )

    def check_calibrated(self) -> None:
        """Refuse a question with a threshold whose answer has no calibrated confidence.

        Raises:
            NotCalibrated: the base or the version that is to answer has none.
        """
        if self.question.abstain_below is not None and self.calibration is None:
            raise NotCalibrated(self.adapter.key[:48] if self.adapter else None)

    def _abstention(self, calibrated: float | None) -> Abstention | None:
        below = self.question.abstain_below
        if below is None or calibrated is None or self.calibration is None:
            return None
        known = self.calibration.at(below)
        risk, coverage = (known.risk, known.coverage) if known else (None, None)
        return Abstention(calibrated < below, risk, coverage)

    def record(self, outcome: str, metrics: Metrics) -> None:
        """Write the request's end down: a log line, attributes of its span, counters and histograms.

        `outcome` is "ok" or an error's code.
        """
        label, tenant, total = self.adapter.name if self.adapter else "", self.question.tenant.name, self.elapsed()
        note(outcome, label, tenant)
        told = {"outcome": outcome, "adapter": label, "tenant": tenant, "total_s": round(total, 6)}
        log.info("%s: %s through %s in %.3f s", self.question.id, outcome, label or "the base", total, extra=told)
        metrics.requests.labels(label, outcome).inc()
        if self.release is not None:
            metrics.releases.labels(label, self.release, outcome).inc()
        if self.member:
            metrics.members.labels(label, self.member, outcome).inc()
        metrics.request_seconds.labels(label).observe(total)
        metrics.queue_seconds.labels(label).observe(self.queue_s)
        if self.last is None:
            return
        metrics.first_token_seconds.labels(label).observe(self.first_token_s)
        if self.tokens > 1:
            metrics.token_seconds.labels(label).observe((total - self.first_token_s) / (self.tokens - 1))
        image_tokens = self._image_tokens()
        metrics.tokens.labels(label, "prompt").inc(self.last.prompt_tokens - image_tokens)
        metrics.tokens.labels(label, "image").inc(image_tokens)
        metrics.tokens.labels(label, "completion").inc(self.tokens)

    def _image_tokens(self) -> int:
        """The pictures' tokens in the prompt: for each picture's one placeholder the engine put all of its tokens."""
        assert self.query is not None  # the engine has spoken
        assert self.last is not None
        return self.last.prompt_tokens - len(self.query.token_ids) + len(self.query.pictures)
