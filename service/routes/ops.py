"""Probes and metrics, for machines that watch this one."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

from service.errors import EngineUnavailable
from service.routes.state import Service, get_service

router = APIRouter(tags=["operations"])


@router.get("/healthz")
async def healthz(service: Annotated[Service, Depends(get_service)]) -> dict[str, str]:
    """Live: the process answers, and its engine runs or may yet be started; 503 when that failed for too long."""
    service.engine.check_hope()
    return {"status": "live"}


@router.get("/readyz")
async def readyz(service: Annotated[Service, Depends(get_service)]) -> dict[str, str]:
    """Ready: the engine is warm and every adapter of the store was proven or refused; 503 until then."""
    await service.engine.check()
    if not service.warm.is_set():
        raise EngineUnavailable("starting: the model or its adapters are not loaded yet")
    return {"status": "ready"}


@router.get("/metrics", response_class=Response)
async def metrics(service: Annotated[Service, Depends(get_service)]) -> Response:
    """Prometheus text: our `vqa_*` series, then the process's own, where vLLM puts `vllm:*`."""
    return Response(
        generate_latest(service.metrics.registry) + generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST
    )
