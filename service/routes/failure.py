"""An exception -> what the caller is answered: a status, headers and a JSON body. The only place that makes these."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match, Route

from service.errors import Cancelled, InvalidRequest, ServiceError
from service.middleware import route_path
from service.schemas.errors import ErrorBody, ErrorResponse
from service.schemas.openai import OpenAIErrorResponse

# Where callers expect another body.
_OPENAI = ("/v1/models", "/v1/chat/", "/v1/completions", "/v1/responses", "/v1/embeddings")
# Paths of probes: they fail while the service starts, which is not counted as the outcome of a request.
PROBES = ("/healthz", "/health", "/readyz", "/ping")
# Faults of one request that are told, and characters of the name of each field: callers choose both.
_MOST_FAULTS, _LONGEST_NAME = 20, 100

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """What a caller is answered for an exception."""

    status: int
    body: ErrorBody
    headers: dict[str, str] = field(default_factory=dict)


def describe(error: BaseException, request_id: str) -> Failure:
    """The Failure for an exception; one of an unforeseen class is logged, with its traceback, and is 500 `internal`."""
    if isinstance(error, RequestValidationError):
        return _failure(InvalidRequest.status, InvalidRequest.code, worded(error.errors(), "request"), request_id)
    if isinstance(error, HTTPException):
        told = _failure(error.status_code, "http_error", str(error.detail), request_id)
        return replace(told, headers={name.lower(): value for name, value in (error.headers or {}).items()})
    if isinstance(error, ClientDisconnect):
        error = Cancelled("the client hung up before its request was complete")
    if isinstance(error, ServiceError):
        body = ErrorBody(code=error.code, message=error.message, request_id=request_id)
        return Failure(error.status, body, error.headers)
    log.error("request %s failed unexpectedly", request_id, exc_info=error)
    return _failure(500, ServiceError.code, "something went wrong on our side", request_id)


async def reply(request: Request, error: Exception) -> Response:
    """The response for an exception raised before an answer's first byte; counted in metrics unless it was already."""
    failure, path = describe(error, request.state.request_id), route_path(request.scope)
    if not getattr(error, "recorded", False) and not (path in PROBES and request.method == "GET"):
        request.app.state.service.metrics.requests.labels("", failure.body.code).inc()
    if failure.status == 405:
        failure.headers["allow"] = _allowed(request)
    status, body = failure.status, ErrorResponse(error=failure.body).model_dump_json
    if path.startswith(_OPENAI):
        status, told = OpenAIErrorResponse.of(failure.status, failure.body)
        body = told.model_dump_json
    return Response(body(), status, failure.headers, "application/json")


def worded(faults: Sequence[Mapping[str, Any]], whole: str) -> str:
    """The first 20 of pydantic's faults in one sentence, each as FIELD: MESSAGE; `whole` is put for a missing FIELD."""
    told = [
        f"{'.'.join(map(str, fault['loc']))[:_LONGEST_NAME] or whole}: {fault['msg']}"
        for fault in faults[:_MOST_FAULTS]
    ]
    more = [f"and {len(faults) - _MOST_FAULTS:,} more"] if len(faults) > _MOST_FAULTS else []
    return "; ".join([*told, *more])


def _allowed(request: Request) -> str:
    """Every method of the routes at a request's path, as RFC 9110 wants a 405 to say."""
    routes = [route for route in request.app.router.routes if isinstance(route, Route)]
    found = [route.methods or () for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    methods = {method for each in found for method in each}
    return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))


def _failure(status: int, code: str, message: str, request_id: str) -> Failure:
    return Failure(status, ErrorBody(code=code, message=message, request_id=request_id))
