"""Probes and metrics, for load balancers, Kubernetes and Prometheus."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from service.routes.state import Bearer, Service, get_service, known

router = APIRouter(tags=["operations"])


@router.get("/healthz")
async def healthz(service: Annotated[Service, Depends(get_service)]) -> dict[str, str]:
    """Live: the process answers, and its engine runs or is started again; 503 after --engine-lost-s without one."""
    service.engine.check_restarts()
    return {"status": "live"}


@router.get("/readyz")
@router.get("/health", include_in_schema=False)
@router.get("/ping", include_in_schema=False)
async def readyz(service: Annotated[Service, Depends(get_service)]) -> dict[str, str]:
    """Ready: the engine answers, pinned adapters are loaded, and the service was not told to stop; else 503.

    Also where vLLM's balancers (`/health`) and SageMaker (`/ping`) ask whether a container answers questions.
    """
    if (fault := service.life.unready) is not None:
        raise fault
    await service.engine.check()
    return {"status": "ready"}


@router.get("/metrics", response_class=Response)
async def metrics(
    request: Request, service: Annotated[Service, Depends(get_service)], bearer: Bearer = None
) -> Response:
    """Prometheus text: our `vqa_*` series, then the process's own, where vLLM puts `vllm:*`.

    With an admin's key, or with --metrics-named, series are told by adapter; others get sums over all adapters.
    """
    tenant = known(request, service, bearer.credentials if bearer else None)
    named = service.settings.metrics_named or bool(tenant and tenant.admin)
    return Response(service.metrics.exposition(named), media_type=CONTENT_TYPE_LATEST)
