"""/v1/captured: the caller's own questions that were kept, to be judged, and its right answers as training data."""

from collections.abc import AsyncGenerator
from typing import IO, Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse

from service.capture import Capture
from service.errors import Forbidden, QuestionNotFound
from service.routes.state import Caller, Running
from service.schemas.captured import CapturedResponse
from service.workers import Workers

router = APIRouter(tags=["questions"])
_MOST, _MOST_SKIPPED = 20, 10_000
# Bytes of a file that are read at once.
_CHUNK = 1 << 18


async def _own(service: Running, tenant: Caller) -> Capture:
    """The Capture of this service, for callers that may read their own questions.

    Raises:
        QuestionNotFound: this service keeps none.
        Forbidden: the service has no keys, so all callers are one tenant, and this caller is not on its machine.
    """
    if service.vqa.capture is None:
        raise QuestionNotFound("this service keeps no questions: its operator has not asked for it")
    if service.settings.keys is None and not tenant.admin:
        raise Forbidden("without keys, what was asked is shown to who sits at the service's machine alone")
    return service.vqa.capture


Kept = Annotated[Capture, Depends(_own)]


@router.get("/v1/captured")
async def list_captured(
    capture: Kept,
    tenant: Caller,
    limit: Annotated[int, Query(ge=1, le=_MOST, description="answers, at most")] = 10,
    skip: Annotated[int, Query(ge=0, le=_MOST_SKIPPED, description="answers to leave out, from the first on")] = 0,
    adapter: Annotated[str | None, Query(max_length=200, description="only answers of this adapter")] = None,
) -> CapturedResponse:
    """List the caller's kept answers that nobody judged yet, least confident first, each with its picture.

    POST /v1/feedback judges one: with the same answer it was right, with another it was wrong.
    """
    return CapturedResponse.of(await capture.waiting(tenant.name, limit, skip, adapter))


@router.get("/v1/captured/rows.zip", response_class=StreamingResponse)
async def download_rows(capture: Kept, service: Running, tenant: Caller) -> StreamingResponse:
    """Download the caller's right answers as a ZIP file of `rows.jsonl` and `images/`, which the trainer reads.

    The newest come first, 5,000 rows or 256 MB at most; all of them lie in the operator's directory.
    """
    packed = await capture.archive(tenant.name)
    headers = {"content-disposition": 'attachment; filename="rows.zip"', "cache-control": "no-store"}
    return StreamingResponse(_pieces(packed, service.workers), media_type="application/zip", headers=headers)


async def _pieces(packed: IO[bytes], workers: Workers) -> AsyncGenerator[bytes, None]:
    try:
        while piece := await workers.run(packed.read, _CHUNK):
            yield piece
    finally:
        packed.close()
