"""GET /v1/adapters: the base in service, the adapters that serve, and those refused with the reason."""

from typing import Annotated

from fastapi import APIRouter, Depends

from service.routes.state import Service, get_service, get_tenant
from service.schemas import AdapterOut, AdaptersResponse, BaseOut, RefusedOut
from service.types import Tenant

router = APIRouter(tags=["adapters"])


@router.get("/v1/adapters")
async def list_adapters(
    service: Annotated[Service, Depends(get_service)], tenant: Annotated[Tenant, Depends(get_tenant)]
) -> AdaptersResponse:
    """List what can be named in a question's `adapter`."""
    return AdaptersResponse(
        base=BaseOut(id=service.base.id, precision=service.base.precision, digest=service.base.digest),
        adapters=[
            AdapterOut(
                name=name,
                version=adapter.version,
                rank=manifest.rank,
                rows=manifest.score.rows,
                base_right=manifest.score.base,
                adapter_right=manifest.score.adapter,
                base_precision=manifest.base_precision,
            )
            for name, (adapter, manifest) in sorted(service.residency.serving.items())
            if tenant.sees(name)
        ],
        refused=[
            RefusedOut(name=name, reason=error.reason, message=error.message)
            for name, error in sorted(service.residency.refused.items())
            if tenant.sees(name)
        ],
    )
