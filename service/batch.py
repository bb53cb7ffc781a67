"""The use case of a batch: each question is asked as any other, but what they are about is made into pictures once."""

import asyncio
from collections.abc import Sequence

from service.errors import ServiceError
from service.pictures import Look
from service.types import Answer, Link, Picture, Question, Upload
from service.vqa import VQA


async def answer_all(vqa: VQA, questions: Sequence[Question]) -> list[Answer | BaseException]:
    """Each question's answer or what it failed with, in order; all are about the first one's images."""
    shared = _Shared(vqa, questions[0].images)
    answering = [vqa.answer(question, fetch=shared.get) for question in questions]
    return await asyncio.gather(*answering, return_exceptions=True)


class _Shared:
    """Pictures that the first to hold a slot makes; a failure is everyone's, and is not tried again."""

    def __init__(self, vqa: VQA, images: tuple[Upload | Link, ...]) -> None:
        self._vqa, self._images = vqa, images
        self._lock = asyncio.Lock()
        self._made: tuple[Picture, ...] | ServiceError | None = None

    async def get(self) -> Look:
        async with self._lock:
            if self._made is None:
                try:
                    self._made = await self._vqa.decoding.run(await self._vqa.pictures.fetch(self._images))
                except ServiceError as error:
                    self._made = error
        made = self._made
        if isinstance(made, ServiceError):
            raise made
        return lambda: made
