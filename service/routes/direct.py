"""The class of the routes for questions, which call their endpoint without FastAPI; it only documents them.

FastAPI would resolve an endpoint's dependencies anew for each request, and validate its response. Other routes, which
are called seldom, have it do so; docs/measured/speed.md has what it costs.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from fastapi.security.utils import get_authorization_scheme_param
from starlette.types import Receive, Scope, Send

from service.errors import InvalidRequest
from service.routes.state import LONGEST_KEY, REQUEST_KEY, Service, admitted
from service.types import Tenant

Endpoint = Callable[[Request, Service, Tenant, str | None], Awaitable[Response]]


class Direct(APIRoute):
    """A route to an `Endpoint`, called with the request, the running service, the tenant and the request's key.

    The tenant is admitted first, as by `service.routes.state.get_tenant`. The types of the endpoint's parameters and
    the router's `dependencies` serve OpenAPI alone.
    """

    def __init__(self, path: str, endpoint: Endpoint, **described: Any) -> None:
        super().__init__(path, endpoint, **described)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            request = Request(scope, receive, send)
            service: Service = request.app.state.service
            tenant = await admitted(request, service, _bearer(request))
            response = await endpoint(request, service, tenant, _key(request))
            await response(scope, receive, send)

        self.app = app


def _bearer(request: Request) -> str | None:
    """The key that came as `Authorization: Bearer KEY`."""
    scheme, key = get_authorization_scheme_param(request.headers.get("authorization"))
    return key if scheme.lower() == "bearer" and key else None


def _key(request: Request) -> str | None:
    key = request.headers.get(REQUEST_KEY)
    if key is not None and len(key) > LONGEST_KEY:
        raise InvalidRequest(f"header.{REQUEST_KEY}: String should have at most {LONGEST_KEY} characters")
    return key
