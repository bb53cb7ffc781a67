"""POST /v1/feedback: the right answer to a question that was asked, kept beside it as training data."""

from typing import Annotated

from fastapi import APIRouter, Depends

from service.errors import QuestionNotFound
from service.routes.state import Service, get_service, get_tenant
from service.schemas import FeedbackRequest
from service.types import Tenant

router = APIRouter(tags=["questions"])


@router.post("/v1/feedback", status_code=204)
async def correct(
    feedback: FeedbackRequest,
    service: Annotated[Service, Depends(get_service)],
    tenant: Annotated[Tenant, Depends(get_tenant)],
) -> None:
    """Say what the right answer was. Only where the service keeps questions, and only for one's own."""
    if service.vqa.capture is None:
        raise QuestionNotFound("this service keeps no questions: its operator has not asked for it")
    await service.vqa.capture.correct(feedback.id, tenant.name, feedback.answer, feedback.comment)
