"""The use case: a Question in, Deltas or an Answer out."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from PIL import Image

from service import beams, choices
from service.adapters.residency import Lease, Residency
from service.adapters.routing import some
from service.admission import Admission
from service.capture import Capture
from service.engine import Engine
from service.errors import (
    AdapterNotFound,
    AdapterUnknown,
    Cancelled,
    DeadlineExceeded,
    EngineUnavailable,
    Overloaded,
    ServiceError,
)
from service.in_hand import InHand
from service.lifetime import Life
from service.metrics import Metrics
from service.outcomes import Outcomes
from service.pictures import MakePictures, Pictures, light
from service.progress import Progress
from service.prompt import Prompt
from service.tracing import engine_hops
from service.types import ANYONE, Adapter, Answer, Delta, Link, Picture, Query, Question, Sampling, Tenant
from service.workers import Workers

# What a token of an answer costs beside one of the prompt: each is a step of its own, while prompts are read at once.
# The makers of large models ask three to five times as much for it.
_OUT = 4
# Characters of a question without images and of its history for which no thread is woken; a turn costs some more.
_SHORT, _TURN = 500, 16


@dataclass(frozen=True)
class VQA:
    """Visual question answering over one engine; `base` is what the base goes by."""

    base: str
    engine: Engine
    residency: Residency
    prompt: Prompt
    pictures: Pictures
    admission: Admission
    fetching: Admission
    in_hand: InHand
    decoding: Workers
    quick: Workers
    metrics: Metrics
    capture: Capture | None = None
    outcomes: Outcomes = field(default_factory=Outcomes)
    life: Life = field(default_factory=Life)

    def names(self, tenant: Tenant) -> list[str]:
        """What a tenant may ask, by the names it may say: the base first."""
        names = self.residency.served.names()
        sees_all = tenant.adapters == ANYONE.adapters
        return [self.base, *(names if sees_all else filter(tenant.sees, names))]

    def turn_away(self, question: Question) -> None:
        """Raise at once what `answer` would raise at once where all is full, and tell it as `answer` does.

        Most of what comes to a service that is asked for more than it can do ends here, without a task of its own.

        Raises:
            Overloaded: see Admission.turn_away.
        """
        if not self.admission.full or _links(question):
            return
        progress = Progress(question)
        try:
            with self._lease(question) as lease:
                progress.adapter, progress.release = lease.adapter, lease.release
                name = lease.adapter.name if lease.adapter else ""
                self.admission.turn_away(question.tenant, name, question.priority)
        except Overloaded as error:
            error.recorded = True
            progress.record(error.code, self.metrics)
            raise
        except ServiceError:  # which `answer` meets too
            return

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
        hear: Callable[[str], None] | None = None,
        sight: "Sight | None" = None,
    ) -> Answer:
        """Answer one question in full.

        `hear` gets each piece of the text at once; a `sight` is shared with others who ask about the same images.

        Raises:
            ServiceError: AdapterNotFound, InvalidRequest, Forbidden, LimitReached, Overloaded, DeadlineExceeded,
                EngineUnavailable, and images' own.
        """
        progress = Progress(question)
        self.metrics.in_flight.inc()
        outcome = ServiceError.code
        try:
            async with (
                self.life.bounded(question.deadline_s),
                aclosing(self._ask(progress, sight or Sight(self), whole=hear is None)) as deltas,
            ):
                said = raw = ""
                async for delta in deltas:
                    raw += delta.text
                    # Stripped, what was said only grows: the pieces add up to the answer.
                    if piece := raw.strip()[len(said) :]:
                        said += piece
                        if hear is not None:
                            hear(piece)
            outcome = "ok"
            answer = progress.answer(said)
            if self.capture is not None and progress.query is not None:
                self.capture.keep(question, progress.query.pictures, answer, progress.release)
            return answer
        except TimeoutError as error:
            outcome = DeadlineExceeded.code
            late = DeadlineExceeded(f"no complete answer within {question.deadline_s:g} s")
            late.recorded = True
            raise late from error
        except ServiceError as error:
            outcome, error.recorded = error.code, True
            raise
        except asyncio.CancelledError:
            outcome = Cancelled.code
            raise
        finally:
            self.metrics.in_flight.dec()
            progress.record(outcome, self.metrics)
            if progress.adapter is not None and progress.release != "pinned":
                adapter, since = progress.adapter, self.residency.changed(progress.adapter.name)
                self.outcomes.record(adapter.name, adapter.version, outcome, progress.elapsed(), since)

    async def warm_up(self, number: int = 0) -> tuple[float, float]:
        """Ask the base about a blank image, so that no caller pays for what an engine does only once.

        Returns seconds to the first token, and for each after it. Another `number` is an image that no cache knows.
        """
        preparation = self.pictures.preparation
        blank = Picture(Image.new("RGB", (preparation.size,) * 2, preparation.colour), f"warm-up-{number}")
        token_ids = self.prompt.encode("what is this?", pictures=1)
        query = Query(f"warm-up-{number}", token_ids, (blank,), None, Sampling(max_tokens=2))
        loop = asyncio.get_running_loop()
        began, heard = loop.time(), list[float]()
        async with aclosing(self.engine.generate(query)) as deltas:
            async for _ in deltas:
                heard.append(loop.time())
        if not heard:
            return 0.0, 0.0
        return heard[0] - began, (heard[-1] - heard[0]) / max(1, len(heard) - 1)

    def lane(self, question: Question) -> Workers:
        """The threads that make a question's pictures: small ones do not wait for large ones to be decoded."""
        return self.quick if light(question.images) else self.decoding

    async def _ask(self, progress: Progress, sight: "Sight", whole: bool) -> AsyncGenerator[Delta, None]:
        question = progress.question
        deadline = asyncio.get_running_loop().time() + question.deadline_s
        with self._lease(question) as lease:
            progress.adapter, progress.release = lease.adapter, lease.release
            async with self._slot(progress, sight, deadline), self._loading(lease) as loaded:
                await self.engine.check()
                slot_s = progress.elapsed()
                make_pictures = await sight.make_pictures(question)
                if _short(question, sight.decoded):
                    query = self._query(question, make_pictures)
                else:
                    query = await self.lane(question).run(self._query, question, make_pictures)
                progress.image_s += progress.elapsed() - slot_s
                progress.adapter, progress.release = await loaded, lease.release
                progress.calibration = lease.calibration
                progress.check_calibrated()
                query = progress.query = replace(query, adapter=progress.adapter, whole=whole)
                progress.member = lease.member(len(query.pictures))
                async with aclosing(engine_hops(self._answering(query, progress))) as deltas:
                    async for delta in deltas:
                        progress.hear(delta)
                        yield delta
            if progress.last is None or progress.last.finish_reason is None:
                raise EngineUnavailable("the engine stopped in the middle of an answer")

    @contextmanager
    def _lease(self, question: Question) -> Iterator[Lease]:
        """The adapter that answers, as its tenant sees them: what it may not see is not there, nor is it listed."""
        tenant = question.tenant
        reference = None if question.adapter == self.base else question.adapter
        try:
            # A router may be seen and the adapter it leads to not.
            if reference and not tenant.sees(reference):
                raise AdapterUnknown("not for this tenant")
            with self.residency.lease(reference, bool(question.images), question.key) as lease:
                if lease.adapter and not tenant.sees(lease.adapter.name):
                    raise AdapterUnknown("not for this tenant")
                yield lease
        except AdapterNotFound as error:
            if tenant.adapters == ANYONE.adapters and not isinstance(error, AdapterUnknown):
                raise
            there = some(self.names(tenant))
            raise AdapterUnknown(f"no adapter {(reference or '')[:64]!r}; there are: {there}") from error

    @asynccontextmanager
    async def _loading(self, lease: Lease) -> AsyncGenerator[Awaitable[Adapter | None], None]:
        """Have a leased adapter loaded while the block does other work; it awaits what this gives before it asks."""
        async with AsyncExitStack() as held:
            loading = asyncio.create_task(held.enter_async_context(lease.loaded()))
            try:
                yield loading
            finally:
                if not loading.done():
                    loading.cancel()
                await asyncio.wait([loading])
                if not loading.cancelled():
                    loading.exception()  # the block may have ended before it looked

    @asynccontextmanager
    async def _slot(self, progress: Progress, sight: "Sight", deadline: float) -> AsyncGenerator[None, None]:
        """Fetch the question's images, then hold a slot, which costs what is asked of the engine in it."""
        question, adapter = progress.question, progress.adapter

        async def fetch() -> None:
            await self.engine.check()
            arrived_s = progress.elapsed()
            await sight.fetch(question, deadline, stack)
            progress.image_s = progress.elapsed() - arrived_s

        name, first = adapter.name if adapter else "", fetch if _links(question) else None
        slot = self.admission.slot(question.tenant, name, question.priority, deadline, question.patient, first)
        async with AsyncExitStack() as stack, slot as settle:
            progress.queue_s = progress.elapsed() - progress.image_s
            try:
                yield
            finally:
                if progress.query is not None:
                    settle(_cost(progress, progress.query))

    def _answering(self, query: Query, progress: Progress) -> AsyncGenerator[Delta, None]:
        if query.choices:
            return self._choose(query, progress)
        width = progress.question.beams
        return self._search(query, width) if width > 1 else self.engine.generate(query)

    async def _search(self, query: Query, width: int) -> AsyncGenerator[Delta, None]:
        extend = partial(self.engine.extend, query)
        best = await beams.search(extend, width, query.sampling.max_tokens, self.prompt.end_token_id)
        text, end = self.prompt.decode(best.token_ids), "stop" if best.ended else "length"
        yield Delta(text, len(best.token_ids), best.logprob, best.prompt_tokens, end)

    async def _choose(self, query: Query, progress: Progress) -> AsyncGenerator[Delta, None]:
        scores, texts = await self.engine.score(query), progress.question.choices
        progress.choices = choices.weigh(texts, scores.logprobs)
        progress.none_of_these = choices.none_of(scores.logprobs)
        best = max(range(len(query.choices)), key=scores.logprobs.__getitem__)
        tokens, logprob = len(query.choices[best]), scores.logprobs[best]
        yield Delta(texts[best], tokens, logprob, scores.prompt_tokens, "stop")

    def _query(self, question: Question, make_pictures: MakePictures) -> Query:
        pictures = make_pictures()
        own = len(pictures) - sum(turn.pictures for turn in question.history)
        token_ids = self.prompt.encode(question.text, own, question.history)
        answers = choices.encode(self.prompt, question)
        return Query(question.id, token_ids, pictures, None, question.sampling, answers, question.tenant.name)


class Sight:
    """One question's images: those at URLs are fetched before it holds a slot, all are decoded while it holds one."""

    def __init__(self, vqa: VQA) -> None:
        self._vqa = vqa
        self._fetched: MakePictures | None = None
        self.decoded = False  # so that to make pictures takes no time any more

    async def fetch(self, question: Question, deadline: float, stack: AsyncExitStack) -> None:
        """Fetch the images at URLs, once there is a place among those for fetching (`--fetches`).

        Their bytes count as held until `stack` ends, which is when the question does.

        Raises:
            ServiceError: what `Pictures.fetch`, `Admission.slot` and `InHand.take` raise.
        """
        most = self._vqa.pictures.fetcher.most * sum(isinstance(image, Link) for image in question.images)
        await stack.enter_async_context(self._vqa.in_hand.held(most))
        tenant, priority = question.tenant, question.priority
        async with self._vqa.fetching.slot(tenant, "", priority, deadline, patient=True):
            self._fetched = await self._vqa.pictures.fetch(question.images)

    async def make_pictures(self, question: Question) -> MakePictures:
        """The function that decodes the question's images; it blocks, so call it on a worker thread.

        Raises:
            ServiceError: what `Pictures.fetch` raises.
        """
        if self._fetched is None:
            self._fetched = await self._vqa.pictures.fetch(question.images)
        return self._fetched


def _short(question: Question, decoded: bool) -> bool:
    """Whether it is made a query about as soon as a thread is woken: mostly in 0.05 ms, in 0.6 ms at worst."""
    characters = len(question.text) + sum(len(turn.text) + _TURN for turn in question.history)
    return (decoded or not question.images) and not question.choices and characters <= _SHORT


def _links(question: Question) -> bool:
    return any(isinstance(image, Link) for image in question.images)


def _cost(progress: Progress, query: Query) -> float:
    """What a query cost the engine so far, in tokens of a prompt."""
    read = progress.last.prompt_tokens if progress.last else len(query.token_ids)
    if query.choices:
        return read + _OUT * sum(map(len, query.choices))
    return read + _OUT * progress.tokens * progress.question.beams
