"""POST /v1/feedback: the right answer to a question that was asked, kept beside it as training data."""

from fastapi import APIRouter

from service.errors import QuestionNotFound
from service.routes.state import Asker, Running
from service.schemas.feedback import FeedbackRequest

router = APIRouter(tags=["questions"])


@router.post("/v1/feedback", status_code=204)
async def correct(feedback: FeedbackRequest, service: Running, tenant: Asker) -> None:
    """Say what the right answer was. Only where the service keeps questions, and only for one's own."""
    if service.vqa.capture is None:
        raise QuestionNotFound("this service keeps no questions: its operator has not asked for it")
    await service.vqa.capture.correct(feedback.id, tenant.name, feedback.answer, feedback.comment)
