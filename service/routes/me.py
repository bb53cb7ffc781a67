"""GET /v1/me: what the caller's key allows, so that a client need not find out by being refused."""

from fastapi import APIRouter

from service.routes.state import Caller, Running
from service.schemas.me import MeResponse

router = APIRouter(tags=["operations"])


@router.get("/v1/me")
async def show_me(service: Running, tenant: Caller) -> MeResponse:
    """Tell the tenant that the caller's key belongs to, what it may do, and whether questions are kept."""
    settings = service.settings
    return MeResponse(
        name=tenant.name,
        keyed=settings.keys is not None,
        admin=tenant.admin,
        adapters=list(tenant.adapters),
        rate=tenant.rate,
        concurrency=tenant.concurrency,
        keeps=service.vqa.capture is not None,
        batch_questions=settings.batch_questions,
        body_limit=settings.body_limit,
    )
