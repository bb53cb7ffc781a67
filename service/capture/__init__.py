"""Keeps questions, answers and corrections as training data, where the operator set `--capture`.

An answer does not wait for this to write, and is given also where writing fails. This module decides whether and when
to write; files.py where and how.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import IO, TypeVar

from service.answer_id import day_of
from service.capture import review
from service.capture.files import EnoughToday, Files, Record, is_row_text
from service.capture.judged import Feedback, Judged, same
from service.capture.rules import Rules
from service.errors import NotKept, QuestionNotFound, ServiceError
from service.metrics import Metrics
from service.types import Answer, Picture, Question, Release
from service.workers import Workers

__all__ = ["Capture", "Feedback", "Files", "Record", "Redact", "Rules"]

T = TypeVar("T")

log = logging.getLogger(__name__)

# A function of the operator's (--capture-redact), called on a worker thread: returns the record as it may be kept, or
# None to keep nothing of it.
Redact = Callable[[Record], Record | None]
# Answers that wait to be written; more are dropped.
_BACKLOG = 128
_STOP_S = 5.0
# Seconds between two reads of what other replicas wrote to the same directory.
_FOLLOW_S = 30.0


class Capture:
    """Writes records on a worker thread, beside the answer; at most _BACKLOG wait to be written, more are dropped."""

    def __init__(self, files: Files, redact: Redact | None, workers: Workers, metrics: Metrics, rules: Rules) -> None:
        self._files, self._redact = files, redact or (lambda record: record)
        self._rules = rules
        self.judged = Judged(files.directory)
        self._workers, self._metrics = workers, metrics
        self._writing: set[asyncio.Task[None]] = set()
        self._reading = asyncio.Lock()  # one reader at a time, for each may read LINES lines
        # Each series starts at 0, so that its first increase is seen.
        for outcome in ("kept", "passed", "capped", "skipped", "dropped", "redacted", "failed"):
            metrics.captured.labels(outcome)

    def keep(
        self, question: Question, pictures: tuple[Picture, ...], answer: Answer, release: Release | None = None
    ) -> None:
        """Queue an answered question to be written, if the rules choose it and a row of training data can hold it.

        `pictures` are those that the model saw; `release` is what chose the version, None for the base. Returns at
        once; a failure to write is logged and counted.
        """
        adapter, kept_by = answer.adapter, self._rules.choose(answer.confidence)
        record = Record(
            request=question.id,
            tenant=question.tenant.name,
            adapter=adapter.name if adapter else None,
            version=adapter.version if adapter else None,
            question=question.text.strip(),
            answer=answer.text.strip(),
            confidence=round(answer.confidence, 6),
            release=release,
            picture=pictures[0].image if pictures else None,
            day=day_of(question.id),
            kept_by=kept_by,
        )
        # A row holds one question and one picture at most.
        if question.history or len(pictures) > 1 or not (is_row_text(record.question) and is_row_text(record.answer)):
            self._count("skipped")
        elif kept_by is None:
            self._count("passed")
        elif len(self._writing) >= _BACKLOG:
            self._count("dropped")
        else:
            task = asyncio.create_task(self._write(record))
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)

    async def correct(self, request: str, tenant: str, answer: str, comment: str | None) -> None:
        """Write the right answer to a question that was kept; `request` is the id of the answer that was given.

        Raises:
            QuestionNotFound: no question of that tenant with that id is kept.
            NotKept: it could not be written, or there is no room.
        """
        if self._writing:
            await asyncio.wait(self._writing)  # the question itself may still be on its way
        try:
            await self._workers.run(self._correct, request, tenant, answer, comment)
        except ServiceError:
            raise
        except Exception as error:  # the disk's, or the operator's hook's, which may be any
            self._failed(error)
            raise NotKept("the correction could not be written: try again later") from error

    async def waiting(self, tenant: str, limit: int, skip: int, adapter: str | None) -> review.Waiting:
        """A tenant's kept answers that nobody judged yet, least confident first; see review.waiting.

        Raises:
            NotKept: what was kept cannot be read.
        """
        return await self._read(partial(review.waiting, self._files.directory, tenant, limit, skip, adapter))

    async def archive(self, tenant: str) -> IO[bytes]:
        """A tenant's right answers as a ZIP file, to be closed by who asked for it; see review.archive.

        Raises:
            NotKept: what was kept cannot be read, or there is no room for the file.
        """
        return await self._read(partial(review.archive, self._files.directory, tenant))

    async def feedback(self, adapter: str, since: datetime | None) -> tuple[str | None, dict[str, Feedback]]:
        """The directory's id, and by version the feedback on what an adapter answered from `since` on (None: ever).

        Raises:
            NotKept: what was kept cannot be read.
        """

        def read() -> tuple[str | None, dict[str, Feedback]]:
            self.judged.refresh()
            return self.judged.id(), self.judged.of(adapter, since)

        return await self._read(read)

    async def follow(self) -> None:
        """Read every 30 s the feedback that other replicas wrote to the same directory, until cancelled."""
        while True:
            try:
                await self._workers.run(self.judged.refresh)
            except Exception as error:  # a disk that is away, a line that somebody else wrote
                log.warning("feedback that was kept cannot be read: %s", error)
            await asyncio.sleep(_FOLLOW_S)

    async def _read(self, work: Callable[[], T]) -> T:
        if self._writing:
            await asyncio.wait(self._writing)
        async with self._reading:
            try:
                return await self._workers.run(work)
            except OSError as error:
                log.error("what was kept cannot be read: %s", error)
                raise NotKept("what was kept cannot be read now: try again later") from error

    async def stop(self) -> None:
        """Wait until what is queued is written, _STOP_S seconds at most."""
        if self._writing:
            await asyncio.wait(self._writing, timeout=_STOP_S)

    async def _write(self, record: Record) -> None:
        try:
            await self._workers.run(self._save, record)
        except EnoughToday:
            self._count("capped")
        except Exception as error:
            self._failed(error)

    def _correct(self, request: str, tenant: str, answer: str, comment: str | None) -> None:
        found = self._files.find(request, tenant)
        if found is None:
            raise QuestionNotFound(f"no question {request!r} of yours is kept here")
        if not self._save(found.corrected(answer, comment)):
            raise NotKept("there is no room for more: try again tomorrow")
        verdict = "right" if same(answer, found.answer) else "wrong"
        with suppress(OSError):  # the correction is written, and read the next time
            self.judged.refresh()
        self._metrics.feedback.labels(found.adapter or "", found.release or "", verdict).inc()

    def _save(self, record: Record) -> bool:
        kept = self._redact(record)
        saved = kept is None or self._files.save(kept)
        self._count("redacted" if kept is None else "kept" if saved else "dropped")
        return saved

    def _failed(self, error: Exception) -> None:
        # The error's text is left out: it may have secrets of the question.
        log.error("a question or correction was not kept: %s", type(error).__name__)
        self._count("failed")

    def _count(self, outcome: str) -> None:
        self._metrics.captured.labels(outcome).inc()
