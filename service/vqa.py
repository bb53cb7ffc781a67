"""The use case: a Question in, Deltas or an Answer out."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from PIL import Image

from service import beams, choices
from service.adapters.residency import Residency
from service.admission import Admission
from service.capture import Capture
from service.engine import Engine
from service.errors import AdapterNotFound, Cancelled, DeadlineExceeded, EngineUnavailable, ServiceError
from service.metrics import Metrics
from service.pictures import Pictures
from service.prompt import Prompt
from service.tracing import engine_hops, note
from service.types import (
    ANYONE,
    Adapter,
    Answer,
    Choice,
    Delta,
    Picture,
    Query,
    Question,
    Sampling,
    Timing,
    Usage,
)
from service.workers import Workers

log = logging.getLogger(__name__)


@dataclass
class _Progress:
    """What is known of a request so far; times are seconds on the monotonic clock."""

    started: float = field(default_factory=time.perf_counter)
    adapter: Adapter | None = None
    query: Query | None = None
    queue_s: float = 0.0
    image_s: float = 0.0
    first_token_s: float = 0.0
    tokens: int = 0
    last: Delta | None = None
    choices: tuple[Choice, ...] = ()

    def elapsed(self) -> float:
        return time.perf_counter() - self.started


@dataclass(frozen=True)
class VQA:
    """Visual question answering over one engine."""

    engine: Engine
    residency: Residency
    prompt: Prompt
    pictures: Pictures
    admission: Admission
    workers: Workers
    metrics: Metrics
    capture: Capture | None = None

    async def stream(self, question: Question) -> AsyncGenerator[str | Answer, None]:
        """The pieces of the answer as they come, then the Answer whose text they add up to; closing it aborts.

        The work runs in a task of its own, so that a slow reader holds no slot and a deadline never strikes the reader.

        Raises: what `answer` raises.
        """
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        answering = asyncio.create_task(self.answer(question, pieces.put_nowait))
        answering.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            yield answering.result()
        finally:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)

    async def answer(
        self,
        question: Question,
        hear: Callable[[str], None] = lambda _: None,
        pictures: Callable[[], Awaitable[tuple[Picture, ...]]] | None = None,
    ) -> Answer:
        """Answer one question in full.

        `hear` gets each piece of the text at once; `pictures` gives what others make of the same images.

        Raises:
            ServiceError: AdapterNotFound, InvalidRequest, Forbidden, LimitReached, Overloaded, DeadlineExceeded,
                EngineUnavailable, and images' own.
        """
        progress, make = _Progress(), pictures or partial(self.pictures.make, question.images)
        self.metrics.in_flight.inc()
        outcome = ServiceError.code
        try:
            async with asyncio.timeout(question.deadline_s), aclosing(self._ask(question, progress, make)) as deltas:
                said = raw = ""
                async for delta in deltas:
                    raw += delta.text
                    # Stripped, what was said only grows: the pieces add up to the answer.
                    if piece := raw.strip()[len(said) :]:
                        said += piece
                        hear(piece)
            outcome = "ok"
            answer = self._complete(question, progress, said)
            if self.capture is not None and progress.query is not None:
                self.capture.keep(question, progress.query.pictures, answer)
            return answer
        except TimeoutError as error:
            outcome = DeadlineExceeded.code
            raise DeadlineExceeded(f"no complete answer within {question.deadline_s:g} s") from error
        except ServiceError as error:
            outcome = error.code
            raise
        except asyncio.CancelledError:
            outcome = Cancelled.code
            raise
        finally:
            self.metrics.in_flight.dec()
            self._record(question, progress, outcome)

    async def warm_up(self) -> None:
        """Ask the base one question about a blank image, so that no caller pays for what an engine does only once."""
        preparation = self.pictures.preparation
        blank = Picture(Image.new("RGB", (preparation.size,) * 2, preparation.colour), "warm-up")
        token_ids = self.prompt.encode("what is this?", pictures=1)
        query = Query("warm-up", token_ids, (blank,), None, Sampling(max_tokens=2))
        async with aclosing(self.engine.generate(query)) as deltas:
            async for _ in deltas:
                pass

    async def _ask(
        self, question: Question, progress: _Progress, make: Callable[[], Awaitable[tuple[Picture, ...]]]
    ) -> AsyncGenerator[Delta, None]:
        deadline = asyncio.get_running_loop().time() + question.deadline_s
        async with self._lease(question) as progress.adapter, self._slot(question, progress.adapter, deadline):
            progress.queue_s = progress.elapsed()
            await self.engine.check()
            pictures = await make()
            progress.image_s = progress.elapsed() - progress.queue_s
            query = progress.query = await self.workers.run(self._query, question, pictures, progress.adapter)
            answering = self._answering(question, query, progress)
            loaded = self.residency.loaded(progress.adapter)
            async with loaded, aclosing(engine_hops(answering)) as deltas:
                async for delta in deltas:
                    progress.first_token_s = progress.first_token_s or progress.elapsed()
                    progress.tokens += delta.tokens
                    progress.last = delta
                    yield delta
            if progress.last is None or progress.last.finish_reason is None:
                raise EngineUnavailable("the engine stopped in the middle of an answer")

    @asynccontextmanager
    async def _lease(self, question: Question) -> AsyncGenerator[Adapter | None, None]:
        """The adapter that answers, as its tenant sees them: what it may not see is not there, nor is it listed."""
        tenant, reference = question.tenant, question.adapter
        try:
            async with self.residency.lease(reference, bool(question.images), question.key) as adapter:
                # A router may be seen and the adapter it leads to not.
                if reference and adapter and not (tenant.sees(reference) and tenant.sees(adapter.name)):
                    raise AdapterNotFound("not for this tenant")
                yield adapter
        except AdapterNotFound as error:
            if tenant.adapters == ANYONE.adapters:
                raise
            raise AdapterNotFound(f"no adapter {(reference or '')[:64]!r}; GET /v1/adapters lists yours") from error

    def _slot(self, question: Question, adapter: Adapter | None, deadline: float) -> AbstractAsyncContextManager[None]:
        return self.admission.slot(question.tenant, adapter.name if adapter else "", question.priority, deadline)

    def _answering(self, question: Question, query: Query, progress: _Progress) -> AsyncGenerator[Delta, None]:
        if query.choices:
            return self._choose(question, query, progress)
        return self._search(question, query) if question.beams > 1 else self.engine.generate(query)

    async def _search(self, question: Question, query: Query) -> AsyncGenerator[Delta, None]:
        extend = partial(self.engine.extend, query)
        best = await beams.search(extend, question.beams, query.sampling.max_tokens, self.prompt.end_token_id)
        text, end = self.prompt.decode(best.token_ids), "stop" if best.ended else "length"
        yield Delta(text, len(best.token_ids), best.logprob, best.prompt_tokens, end)

    async def _choose(self, question: Question, query: Query, progress: _Progress) -> AsyncGenerator[Delta, None]:
        scores = await self.engine.score(query)
        progress.choices = choices.weigh(question.choices, scores.logprobs)
        best = max(range(len(query.choices)), key=scores.logprobs.__getitem__)
        tokens, logprob = len(query.choices[best]), scores.logprobs[best]
        yield Delta(question.choices[best], tokens, logprob, scores.prompt_tokens, "stop")

    def _query(self, question: Question, pictures: tuple[Picture, ...], adapter: Adapter | None) -> Query:
        own = len(pictures) - sum(turn.pictures for turn in question.history)
        token_ids = self.prompt.encode(question.text, own, question.history)
        answers = choices.encode(self.prompt, question)
        return Query(question.id, token_ids, pictures, adapter, question.sampling, answers, question.tenant.name)

    def _complete(self, question: Question, progress: _Progress, text: str) -> Answer:
        query, last = progress.query, progress.last
        assert query is not None  # for the type checker: _ask ended well
        assert last is not None
        usage = Usage(last.prompt_tokens, progress.tokens, _image_tokens(query, last))
        timing = Timing(progress.image_s, progress.queue_s, progress.first_token_s, progress.elapsed())
        finish = last.finish_reason or "stop"
        confidence = math.exp(last.logprob)
        return Answer(question.id, text, confidence, progress.adapter, finish, usage, timing, progress.choices)

    def _record(self, question: Question, progress: _Progress, outcome: str) -> None:
        metrics, label, total = self.metrics, progress.adapter.name if progress.adapter else "", progress.elapsed()
        note(outcome, label, question.tenant.name)
        told = {"outcome": outcome, "adapter": label, "tenant": question.tenant.name, "total_s": round(total, 6)}
        log.info("%s: %s through %s in %.3f s", question.id, outcome, label or "the base", total, extra=told)
        metrics.requests.labels(label, outcome).inc()
        metrics.request_seconds.labels(label).observe(total)
        metrics.queue_seconds.labels(label).observe(progress.queue_s)
        if progress.query is None or progress.last is None:
            return
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
