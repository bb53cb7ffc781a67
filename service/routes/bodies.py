"""A request's body -> one of our shapes; what does not fit is named field by field."""

from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from service.errors import InvalidRequest
from service.workers import Workers

M = TypeVar("M", bound=BaseModel)


async def read_json(request: Request, shape: type[M], workers: Workers) -> M:
    """The body as `shape`; at worst megabytes of base64, so that parsing it is work for a thread.

    Raises:
        InvalidRequest: no JSON, or another shape.
    """
    body = await request.body()

    def parse() -> M:
        try:
            return shape.model_validate_json(body)
        except ValidationError as error:
            raise invalid(error) from error

    return await workers.run(parse)


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
