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
    """One running service; `warm` is set once the engine answers, the store was read and pinned adapters are loaded.

    `reading` reads large bodies; `workers` read keys, write what is kept and long lists; decoding and the adapter store
    have threads of their own. `began` is in seconds since 1970.
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
        """Set while the engine answers, the store was looked at and pinned adapters are loaded."""
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
# What proxies add.
_RELAYED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")


def known(request: Request, service: Service, key: str | None) -> Tenant | None:
    """Whose key came, if somebody's. Without keys it is anybody, who only at this machine itself is an admin.

    What a proxy relays comes from somewhere else, and what a page of another site sends (its `Origin` is not this host)
    is nothing that this machine's user means.
    """
    tenant = service.tenants.holder(key)
    if tenant is None or service.settings.keys is not None:
        return tenant
    origin = request.headers.get("origin", "").partition("://")[2]
    elsewhere = origin not in ("", request.headers.get("host", "")) or any(name in request.headers for name in _RELAYED)
    # nginx adds nothing by default, but speaks HTTP/1.0.
    return replace(tenant, admin=False) if elsewhere or request.scope["http_version"] == "1.0" else tenant


async def get_tenant(request: Request, bearer: Bearer) -> Tenant:
    """Who asks, within its rate, for `Depends`; however often it is depended on, a request counts once.

    Raises:
        Overloaded: service/connections.py marked it: it came over more connections than may be open.
        Unauthorized, LimitReached: see Tenants.admit.
    """
    return await admitted(request, await get_service(request), bearer.credentials if bearer else None)


async def admitted(request: Request, service: Service, key: str | None) -> Tenant:
    """Who asks with a key; raises what `get_tenant` does."""
    if getattr(request.state, "crowded", False):
        raise Overloaded("as many connections are open as may be: keep one, and ask again over it")
    return await service.tenants.admit(known(request, service, key))


Caller = Annotated[Tenant, Depends(get_tenant)]


async def require_admin(tenant: Caller) -> Tenant:
    """Who asks, and may change what is served, for `Depends`.

    Raises:
        Forbidden: it may only ask questions; and what `get_tenant` raises.
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
        description="questions with one key get one version of an adapter, while its traffic is shared out between two",
    ),
]
