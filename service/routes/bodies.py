"""A request's body -> one of our shapes; what does not fit is named field by field."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from service.errors import InvalidRequest
from service.workers import Workers

M = TypeVar("M", bound=BaseModel)
R = TypeVar("R")
# Characters of a body that are understood sooner than a thread is woken.
_SMALL = 32_768


async def read_json(request: Request, shape: type[M], workers: Workers, mean: Callable[[M], R]) -> tuple[M, R]:
    """The body as `shape`, and what it is taken to `mean`.

    Raises:
        InvalidRequest: no JSON, or another shape; and what `mean` raises.
    """
    body = await request.body()
    return await understand(partial(shape.model_validate_json, body), mean, len(body), workers)


async def understand(parse: Callable[[], M], mean: Callable[[M], R], size: int, workers: Workers) -> tuple[M, R]:
    """What `parse` makes of `size` characters and `mean` of that; megabytes of base64 are work for a thread.

    Raises:
        InvalidRequest: the shape is another; and what `mean` raises.
    """

    def read() -> tuple[M, R]:
        parsed = parse()
        return parsed, mean(parsed)

    try:
        return await workers.run(read) if size > _SMALL else read()
    except ValidationError as error:
        raise await workers.run(invalid, error) from error  # thousands of faults are long to word


def documented(path: str, shape: type[BaseModel]) -> dict[str, Any]:
    """What OpenAPI says of the body of a POST to `path` that `read_json` reads as `shape`."""
    # Where the shapes within it will stand in the document.
    place = f"#/paths/{path.replace('/', '~1')}/post/requestBody/content/application~1json/schema/$defs/{{model}}"
    content = {"application/json": {"schema": shape.model_json_schema(ref_template=place)}}
    return {"requestBody": {"required": True, "content": content}}


def invalid(error: ValidationError) -> InvalidRequest:
    """All faults of a body in one sentence."""
    faults = (
        f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}" for fault in error.errors(include_url=False)
    )
    return InvalidRequest("; ".join(faults))
