"""The routes that questions come by, from the request straight to its endpoint: FastAPI describes them, and no more.

FastAPI's own way looks up what an endpoint depends on, anew for each request, and validates what it answers. Both are
worth their time where few requests come; docs/measured/speed.md has what they cost.
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
    """A route to an `Endpoint`: a request, the running service, who asks, and the request's key, in this order.

    Who asks is admitted first, as by `service.routes.state.get_tenant`. What the endpoint's parameters and the router's
    `dependencies` say is for the document alone.
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
