"""The use case of a batch: each question is asked as any other, but what they are about is made into pictures once."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from service.errors import ServiceError
from service.pictures import MakePictures
from service.types import Answer, Picture, Question
from service.vqa import VQA, Sight


async def answer_all(vqa: VQA, questions: Sequence[Question]) -> list[Answer | BaseException]:
    """Each question's answer or what it failed with, in order; all are about the first one's images."""
    shared = _Shared(vqa)
    answering = [vqa.answer(question, sight=shared) for question in questions]
    return await asyncio.gather(*answering, return_exceptions=True)


async def answer_each(
    vqa: VQA, questions: Sequence[Question]
) -> AsyncGenerator[tuple[int, Answer | BaseException], None]:
    """Each question's number and its answer or what it failed with, in the order in which they come to an end.

    Closing it ends the work on those that have not.
    """
    shared = _Shared(vqa)
    ended: asyncio.Queue[int] = asyncio.Queue()
    answering = [asyncio.create_task(vqa.answer(question, sight=shared)) for question in questions]
    numbers = {task: number for number, task in enumerate(answering)}
    for task in answering:
        task.add_done_callback(lambda ending: ended.put_nowait(numbers[ending]))
    try:
        for _ in answering:
            number = await ended.get()
            (found,) = await asyncio.gather(answering[number], return_exceptions=True)
            yield number, found
    finally:
        for task in answering:
            task.cancel()
        await asyncio.gather(*answering, return_exceptions=True)


class _Shared(Sight):
    """Fetched once, and made into pictures by the first to hold a slot; a failure is everyone's and final."""

    def __init__(self, vqa: VQA) -> None:
        super().__init__(vqa)
        self._lock = asyncio.Lock()
        self._made: tuple[Picture, ...] | None = None
        self._failed: ServiceError | None = None

    async def fetch(self, question: Question, deadline: float, stack: AsyncExitStack) -> None:
        """Fetch the images at URLs, for the first question of the batch that comes here; the others wait for it."""
        async with self._once():
            if self._fetched is None:
                await super().fetch(question, deadline, stack)

    async def make_pictures(self, question: Question) -> MakePictures:
        """A function that gives the pictures, which the first question of the batch had decoded on a worker thread."""
        async with self._once():
            if self._made is None:
                self._made = await self._vqa.lane(question).run(await super().make_pictures(question))
                self.decoded = True
        made = self._made
        return lambda: made

    @asynccontextmanager
    async def _once(self) -> AsyncGenerator[None, None]:
        async with self._lock:
            if self._failed is not None:
                raise self._failed
            try:
                yield
            except ServiceError as error:
                self._failed = error
                raise
