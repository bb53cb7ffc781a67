"""What routes may reach: the parts of one running service, put together by `create_app`."""

import asyncio
import time
from dataclasses import dataclass, field, replace
from typing import Annotated

from fastapi import Depends, Header, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from service.adapters.base import Base
from service.adapters.releases import Releases
from service.adapters.residency import Residency
from service.auth import Tenants
from service.engine.supervised import Supervised
from service.errors import Forbidden, Overloaded
from service.lifetime import Life
from service.metrics import Metrics
from service.online import Online
from service.places import Places
from service.settings import Settings
from service.shared import Shared
from service.types import Tenant
from service.vqa import VQA
from service.workers import Workers


@dataclass
class Service:
    """The parts of one running service.

    The threads of `reading` parse large bodies; those of `workers` read the file of keys, write what is kept, and make
    long lists; decoding and the adapter store have threads of their own. `began` is in seconds since 1970.
    """

    settings: Settings
    base: Base
    engine: Supervised
    residency: Residency
    releases: Releases
    vqa: VQA
    online: Online
    metrics: Metrics
    tenants: Tenants
    reading: Workers
    workers: Workers
    life: Life
    places: Places
    shared: Shared | None
    began: int = field(default_factory=lambda: int(time.time()))

    @property
    def warm(self) -> asyncio.Event:
        """Set once the engine answers, the store was read and pinned adapters are loaded.

        Cleared when the engine is lost, until all of that holds again.
        """
        return self.life.warm

    @property
    def deadline_s(self) -> float:
        """Seconds a request may take when it does not say."""
        return self.engine.pace.deadline_s


async def get_service(request: Request) -> Service:  # async: FastAPI sends others to a thread
    """The running service of a request, for `Depends`."""
    found: Service = request.app.state.service
    return found


Running = Annotated[Service, Depends(get_service)]


Bearer = Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]
# Headers that proxies add to a request.
_RELAYED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")


def known(request: Request, service: Service, key: str | None) -> Tenant | None:
    """The tenant whose key came; None: nobody's. A service without keys has one tenant for all callers.

    That one is an admin where the service listens on this machine alone, except for a request that a proxy relayed,
    which may come from elsewhere, and one that a page of another site sent (its `Origin` is not this host), which this
    machine's user may know nothing of.
    """
    tenant = service.tenants.holder(key)
    if tenant is None or service.settings.keys is not None:
        return tenant
    origin = request.headers.get("origin", "").partition("://")[2]
    elsewhere = origin not in ("", request.headers.get("host", "")) or any(name in request.headers for name in _RELAYED)
    # nginx adds nothing by default, but speaks HTTP/1.0.
    return replace(tenant, admin=False) if elsewhere or request.scope["http_version"] == "1.0" else tenant


async def get_tenant(request: Request, bearer: Bearer) -> Tenant:
    """The tenant of a request, charged for one question, for `Depends`; FastAPI calls it once for each request.

    Raises:
        Overloaded: more connections are open than may be, and the request came over one of those.
        Unauthorized, LimitReached: see Tenants.admit.
    """
    return await admitted(request, await get_service(request), bearer.credentials if bearer else None)


async def admitted(request: Request, service: Service, key: str | None) -> Tenant:
    """The tenant whose key came, charged for one question.

    Raises: what `get_tenant` raises.
    """
    if getattr(request.state, "crowded", False):
        raise Overloaded("as many connections are open as may be: keep one, and ask again over it")
    return await service.tenants.admit(known(request, service, key))


Caller = Annotated[Tenant, Depends(get_tenant)]


async def require_admin(tenant: Caller) -> Tenant:
    """The tenant of a request, which must be an admin, for `Depends`.

    Raises:
        Forbidden: it is none; and what `get_tenant` raises.
    """
    if not tenant.admin:
        raise Forbidden("this needs an admin's key")
    return tenant


REQUEST_KEY, LONGEST_KEY = "x-request-key", 200
RequestKey = Annotated[
    str | None,
    Header(
        alias=REQUEST_KEY,
        max_length=LONGEST_KEY,
        description="questions with the same key get the same version of an adapter whose questions two versions share",
    ),
]
