"""The use case: a Question in, Deltas or an Answer out."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

from PIL import Image

from service.adapters.residency import Residency
from service.admission import Admission
from service.engine import Engine
from service.errors import DeadlineExceeded, EngineUnavailable, ServiceError
from service.images import ImageLimits, Preparation, picture
from service.images.fetch import Fetcher
from service.metrics import Metrics
from service.prompt import Prompt
from service.types import Adapter, Answer, Delta, Link, Picture, Query, Question, Sampling, Timing, Upload, Usage
from service.workers import Workers


@dataclass
class _Progress:
    """What is known of a request so far; times are seconds on the monotonic clock."""

    started: float = field(default_factory=time.perf_counter)
    adapter: Adapter | None = None
    query: Query | None = None
    queue_s: float = 0.0
    fetch_s: float = 0.0
    image_s: float = 0.0
    first_token_s: float = 0.0
    tokens: int = 0
    last: Delta | None = None

    def elapsed(self) -> float:
        return time.perf_counter() - self.started


@dataclass(frozen=True)
class VQA:
    """Visual question answering over one engine."""

    engine: Engine
    residency: Residency
    prompt: Prompt
    preparation: Preparation
    limits: ImageLimits
    fetcher: Fetcher
    admission: Admission
    workers: Workers
    metrics: Metrics

    async def answer(self, question: Question) -> Answer:
        """Answer one question in full.

        Raises:
            ServiceError: AdapterNotFound, Overloaded, DeadlineExceeded, EngineUnavailable, and images' own.
        """
        progress = _Progress()
        self.metrics.in_flight.inc()
        outcome = "cancelled"
        try:
            async with asyncio.timeout(question.deadline_s), aclosing(self._ask(question, progress)) as deltas:
                text = "".join([delta.text async for delta in deltas])
            outcome = "ok"
            return self._complete(question, progress, text)
        except TimeoutError as error:
            outcome = DeadlineExceeded.code
            raise DeadlineExceeded(f"no complete answer within {question.deadline_s:g} s") from error
        except ServiceError as error:
            outcome = error.code
            raise
        finally:
            self.metrics.in_flight.dec()
            self._record(progress, outcome)

    async def warm_up(self) -> None:
        """Ask the base one question about a blank image, so that no caller pays for what an engine does only once."""
        size = self.preparation.size
        blank = Picture(Image.new("RGB", (size, size), self.preparation.colour), "warm-up")
        token_ids = self.prompt.encode("what is this?", pictures=1)
        query = Query("warm-up", token_ids, (blank,), None, Sampling(max_tokens=2))
        async with aclosing(self.engine.generate(query)) as deltas:
            async for _ in deltas:
                pass

    async def _ask(self, question: Question, progress: _Progress) -> AsyncGenerator[Delta, None]:
        lease = self.residency.lease(question.adapter, bool(question.images), question.key)
        async with lease as progress.adapter, self.admission.slot():
            progress.queue_s = progress.elapsed()
            await self.engine.check()
            uploads = [await self._fetch(image, progress) for image in question.images]
            progress.query = await self.workers.run(self._query, question, uploads, progress.adapter)
            progress.image_s = progress.elapsed() - progress.queue_s
            loaded = self.residency.loaded(progress.adapter)
            async with loaded, aclosing(self.engine.generate(progress.query)) as deltas:
                async for delta in deltas:
                    progress.first_token_s = progress.first_token_s or progress.elapsed()
                    progress.tokens += delta.tokens
                    progress.last = delta
                    yield delta
            if progress.last is None or progress.last.finish_reason is None:
                raise EngineUnavailable("the engine stopped in the middle of an answer")

    async def _fetch(self, image: Upload | Link, progress: _Progress) -> Upload:
        if isinstance(image, Upload):
            return image
        started = time.perf_counter()
        # What a web server says of a file's type is often wrong, and no claim of the caller's.
        data = await self.fetcher.fetch(image.url)
        progress.fetch_s += time.perf_counter() - started
        return Upload(data)

    def _query(self, question: Question, uploads: list[Upload], adapter: Adapter | None) -> Query:
        pictures = tuple(picture(upload.data, self.preparation, self.limits, upload.mime) for upload in uploads)
        token_ids = self.prompt.encode(question.text, len(pictures))
        return Query(question.id, token_ids, pictures, adapter, question.sampling)

    def _complete(self, question: Question, progress: _Progress, text: str) -> Answer:
        query, last = progress.query, progress.last
        assert query is not None  # for the type checker: _ask ended well
        assert last is not None
        usage = Usage(last.prompt_tokens, progress.tokens, _image_tokens(query, last))
        timing = Timing(progress.image_s, progress.queue_s, progress.first_token_s, progress.elapsed())
        finish = last.finish_reason or "stop"
        return Answer(question.id, text.strip(), math.exp(last.logprob), progress.adapter, finish, usage, timing)

    def _record(self, progress: _Progress, outcome: str) -> None:
        metrics, label, total = self.metrics, progress.adapter.name if progress.adapter else "", progress.elapsed()
        metrics.requests.labels(label, outcome).inc()
        metrics.request_seconds.labels(label).observe(total)
        metrics.queue_seconds.labels(label).observe(progress.queue_s)
        if progress.query is None or progress.last is None:
            return
        if progress.query.pictures:
            metrics.image_seconds.labels("prepare").observe(progress.image_s - progress.fetch_s)
        if progress.fetch_s:
            metrics.image_seconds.labels("fetch").observe(progress.fetch_s)
        metrics.first_token_seconds.labels(label).observe(progress.first_token_s)
        if progress.tokens > 1:
            metrics.token_seconds.labels(label).observe((total - progress.first_token_s) / (progress.tokens - 1))
        image_tokens = _image_tokens(progress.query, progress.last)
        metrics.tokens.labels(label, "prompt").inc(progress.last.prompt_tokens - image_tokens)
        metrics.tokens.labels(label, "image").inc(image_tokens)
        metrics.tokens.labels(label, "completion").inc(progress.tokens)


def _image_tokens(query: Query, last: Delta) -> int:
    """Every picture's one placeholder became its image tokens in the engine."""
    return last.prompt_tokens - len(query.token_ids) + len(query.pictures)
