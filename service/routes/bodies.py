"""A request's body -> one of our shapes; what does not fit is named field by field."""

from typing import Any, TypeVar

import jiter
from fastapi import Request
from pydantic import BaseModel, ValidationError

from service.errors import InvalidRequest, MalformedRequest, ServiceError, TextTooLong
from service.workers import Workers

M = TypeVar("M", bound=BaseModel)


async def read_json(request: Request, shape: type[M], workers: Workers) -> M:
    """The body as `shape`, none being the empty object; at worst megabytes of base64, so parsing is work for a thread.

    Raises:
        MalformedRequest: no JSON, nested without end, or a key that comes twice.
        TextTooLong, InvalidRequest: another shape.
    """
    body = await request.body() or b"{}"

    def parse() -> M:
        try:
            # pydantic's own parser, which by itself would let the last of two like keys win.
            return shape.model_validate(jiter.from_json(body, catch_duplicate_keys=True))
        except ValidationError as error:
            raise invalid(error) from error
        except ValueError as error:
            raise MalformedRequest(f"the body is no JSON that could be read: {error}") from error

    return await workers.run(parse)


def documented(path: str, shape: type[BaseModel], method: str = "post", required: bool = True) -> dict[str, Any]:
    """What OpenAPI says of the body at `path` that `read_json` reads as `shape`."""
    # Where the shapes within it will stand in the document.
    pointer = path.replace("/", "~1").replace("{", "{{").replace("}", "}}")
    place = f"#/paths/{pointer}/{method}/requestBody/content/application~1json/schema/$defs/{{model}}"
    content = {"application/json": {"schema": shape.model_json_schema(ref_template=place)}}
    return {"requestBody": {"required": required, "content": content}}


def invalid(error: ValidationError) -> ServiceError:
    """All faults of a body in one sentence."""
    faults = error.errors(include_url=False)
    sentence = "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}" for fault in faults)
    too_long = any(fault["type"] == "string_too_long" for fault in faults)
    return TextTooLong(sentence) if too_long else InvalidRequest(sentence)
