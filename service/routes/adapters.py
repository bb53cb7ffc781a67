"""/v1/adapters: `router` lists and shows adapters; `admin` moves aliases, pins, loads and deletes, for admins' keys."""

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request, Response

from service.errors import AdapterNotFound, InvalidRequest
from service.routes.bodies import documented, read_json, unchanged
from service.routes.state import Caller, Running, Service
from service.schemas.adapters import (
    AdapterChange,
    AdapterDetail,
    AdaptersResponse,
    BaseOut,
    Rollback,
)
from service.types import Tenant

router = APIRouter(tags=["adapters"])
admin = APIRouter(tags=["adapters"])
_MOST = 250
_ADAPTER = "/v1/adapters/{name}"
_ROLLBACK = f"{_ADAPTER}/rollback"


async def _seen(name: str, tenant: Caller) -> str:
    """The name in the path.

    Raises:
        AdapterNotFound: the caller may not know of it; the same as where there is no such adapter.
    """
    if not tenant.sees(name):
        raise AdapterNotFound(f"no adapter {name[:64]!r} in the store")
    return name


Name = Annotated[str, Depends(_seen)]


async def _tags(
    if_match: Annotated[
        str | None, Header(max_length=1000, description="change only aliases with this ETag, as GET gives it; else 412")
    ] = None,
) -> list[str]:
    """The entity tags in If-Match, of which the aliases must have one; empty where the aliases may be any."""
    tags = [] if if_match is None else [tag.strip().removeprefix("W/").strip('"') for tag in if_match.split(",")]
    return [] if "*" in tags else tags


Tags = Annotated[list[str], Depends(_tags)]


@router.get("/v1/adapters", response_model=AdaptersResponse)
async def list_adapters(
    service: Running,
    tenant: Caller,
    limit: Annotated[int, Query(ge=1, le=_MOST, description="names on a page, at most")] = _MOST,
    after: Annotated[str, Query(max_length=255, description="the `next` of the page before")] = "",
) -> Response:
    """List what can be named in a question's `adapter`, and what of the store cannot, in order of names."""
    base = BaseOut(id=service.base.id, precision=service.base.precision, digest=service.base.digest)
    page = AdaptersResponse.page(base, service.residency, tenant.sees, limit, after)
    return Response(
        page.model_dump_json(), media_type="application/json"
    )  # FastAPI's own way takes three times as long


@router.get(_ADAPTER)
async def show_adapter(name: Name, tenant: Caller, service: Running, response: Response) -> AdapterDetail:
    """Show an adapter's aliases and versions, the state of each in this replica, and how each does with its callers.

    The ETag is of the aliases: sent back as If-Match, it keeps a change from undoing another that came between.
    """
    return await _shown(name, tenant, service, response)


@admin.put(_ADAPTER, openapi_extra=documented(_ADAPTER, AdapterChange, "put"))
async def change_adapter(
    request: Request, name: Name, tenant: Caller, service: Running, response: Response, tags: Tags
) -> AdapterDetail:
    """Move an alias to a version, which is proven first; give the alias a share of the questions; pin the adapter."""
    change, _ = await read_json(request, AdapterChange, service.reading, unchanged)
    moves = change.version is not None or change.weight is not None
    if not moves and change.pin is None:
        raise InvalidRequest("nothing to change: send version, weight or pin")
    if moves:
        await service.releases.point(name, change.alias, change.version or change.alias, change.weight, tags)
    if change.pin is not None:
        await service.releases.pin(name, change.pin, () if moves else tags)
    return await _shown(name, tenant, service, response)


@admin.post(_ROLLBACK, openapi_extra=documented(_ROLLBACK, Rollback, required=False))
async def roll_back_adapter(
    request: Request, name: Name, tenant: Caller, service: Running, response: Response, tags: Tags
) -> AdapterDetail:
    """Point an alias, stable if none is named, at its previous version."""
    rollback, _ = await read_json(request, Rollback, service.reading, unchanged)
    await service.releases.roll_back(name, rollback.alias, tags)
    return await _shown(name, tenant, service, response)


@admin.post("/v1/adapters/{name}/prefetch")
async def prefetch_adapter(name: Name, tenant: Caller, service: Running, response: Response) -> AdapterDetail:
    """Load an adapter in this replica before someone asks."""
    await service.releases.prefetch(name)
    return await _shown(name, tenant, service, response)


@admin.delete(_ADAPTER, status_code=204)
async def delete_adapter(name: Name, service: Running, tags: Tags, alias: str | None = None) -> None:
    """Remove an adapter, or one alias of it; questions under way are answered."""
    if alias is None:
        await service.releases.delete(name, tags)
    else:
        await service.releases.drop_alias(name, alias, tags)


async def _shown(name: str, tenant: Tenant, service: Service, response: Response) -> AdapterDetail:
    """The adapter as it is now, its ETag set on `response`; figures of its versions in use are for admins alone.

    Raises:
        AdapterNotFound: there is no such adapter.
    """
    online = await service.online.of(name) if tenant.admin else None
    detail = AdapterDetail.of(service.residency, name, online)
    response.headers["etag"] = f'"{service.residency.wanted.shelves[name].aliases.tag}"'
    return detail
