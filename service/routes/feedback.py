"""POST /v1/feedback: the right answer to a question that was asked, kept beside it as training data."""

from fastapi import APIRouter, Request

from service.errors import QuestionNotFound
from service.routes.bodies import documented, read_json, unchanged
from service.routes.state import Caller, Running
from service.schemas.feedback import FeedbackRequest

router = APIRouter(tags=["questions"])
_PATH = "/v1/feedback"


@router.post(_PATH, status_code=204, openapi_extra=documented(_PATH, FeedbackRequest))
async def correct(request: Request, service: Running, tenant: Caller) -> None:
    """Send the right answer to a question of yours, where the service keeps questions (--capture)."""
    feedback, _ = await read_json(request, FeedbackRequest, service.reading, unchanged)
    if service.vqa.capture is None:
        raise QuestionNotFound("this service keeps no questions: its operator has not asked for it")
    await service.vqa.capture.correct(feedback.id, tenant.name, feedback.answer, feedback.comment)
