"""The use case of a batch: each question is asked as any other, but what they are about is made into pictures once."""

import asyncio
from collections.abc import Sequence

from service.errors import InvalidRequest, ServiceError
from service.pictures import Pictures
from service.types import Answer, Link, Picture, Question, Upload
from service.vqa import VQA


async def answer_all(vqa: VQA, questions: Sequence[Question], most: int) -> list[Answer | BaseException]:
    """Each question's answer or what it failed with, in order; all are about the first one's images.

    Raises:
        InvalidRequest: over `most` questions.
    """
    if len(questions) > most:
        raise InvalidRequest(f"{len(questions)} questions came: one batch may have {most}")
    shared = _Shared(vqa.pictures, questions[0].images)
    answering = [vqa.answer(question, pictures=shared.get) for question in questions]
    return await asyncio.gather(*answering, return_exceptions=True)


class _Shared:
    """Pictures that the first to hold a slot makes; a failure is everyone's, and is not tried again."""

    def __init__(self, pictures: Pictures, images: tuple[Upload | Link, ...]) -> None:
        self._pictures, self._images = pictures, images
        self._lock = asyncio.Lock()
        self._made: tuple[Picture, ...] | ServiceError | None = None

    async def get(self) -> tuple[Picture, ...]:
        async with self._lock:
            if self._made is None:
                try:
                    self._made = await self._pictures.make(self._images)
                except ServiceError as error:
                    self._made = error
        if isinstance(self._made, ServiceError):
            raise self._made
        return self._made
