"""POST /v1/vqa and /invocations: JSON or a form with files comes in, JSON or server-sent events go out."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from service.answer_id import answer_id
from service.middleware import route_path
from service.routes import failure, listening
from service.routes.bodies import parse_and_convert, read_json
from service.routes.direct import Direct
from service.routes.forms import is_form, read_form
from service.routes.state import Caller, RequestKey, Running, Service
from service.schemas.errors import ErrorResponse
from service.schemas.vqa import MOST_IMAGES, Invocation, VQARequest, VQAResponse
from service.types import Answer, Question, Upload

router = APIRouter(tags=["questions"], route_class=Direct)

_SCHEMA = VQARequest.model_json_schema()
_FILE = {"type": "string", "format": "binary"}
_FILES = {"image": _FILE, "images": {"type": "array", "items": _FILE, "maxItems": MOST_IMAGES}}
_FORM = {**_SCHEMA, "properties": {**_SCHEMA["properties"], **_FILES}}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": _SCHEMA}, "multipart/form-data": {"schema": _FORM}},
    }
}
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            "text/event-stream": {
                "example": 'data: {"delta": "red"}\n\ndata: {"id": "vqa-…", "answer": "red", …}\n\ndata: [DONE]\n\n'
            }
        }
    }
}


@router.post("/v1/vqa", openapi_extra=_BODY, response_model=VQAResponse, responses=_STREAM)
@router.post("/invocations", openapi_extra=_BODY, response_model=VQAResponse, responses=_STREAM)
async def ask(request: Request, service: Running, tenant: Caller, key: RequestKey = None) -> Response:
    """Answer a question about an image through an adapter, or through the base model where none is named.

    `/invocations` is the path that SageMaker calls; its body is the same, also within `{"inputs": …}`.
    """

    def to_question(body: VQARequest, files: tuple[Upload, ...] = ()) -> Question:
        question = body.to_question(answer_id("vqa", request.state.request_id), service.deadline_s, files)
        return replace(question, tenant=tenant, key=key)

    if is_form(request.headers.get("content-type", "")):
        body, question = await _read_form(request, service, to_question)
    else:
        shape = Invocation if route_path(request.scope) == "/invocations" else VQARequest
        body, question = await read_json(request, shape, service.reading, to_question)
    service.vqa.turn_away(question)
    stream = body.stream
    del body  # which has the images as text
    if stream:
        fail = partial(_write_error, request.state.request_id)
        return await listening.stream(request, service.vqa.stream(question), _write, fail)
    answer = await listening.unless_gone(request.receive, service.vqa.answer(question))
    return Response(VQAResponse.of(answer).model_dump_json(), media_type="application/json")


def _write(said: str | Answer) -> str:
    if isinstance(said, str):
        return f"data: {json.dumps({'delta': said})}\n\n"
    return f"data: {VQAResponse.of(said).model_dump_json()}\n\ndata: [DONE]\n\n"


def _write_error(request_id: str, error: Exception) -> str:
    body = ErrorResponse(error=failure.describe(error, request_id).body)
    return f"event: error\ndata: {body.model_dump_json()}\n\n"


async def _read_form(
    request: Request, service: Service, to_question: Callable[[VQARequest, tuple[Upload, ...]], Question]
) -> tuple[VQARequest, Question]:
    form = await read_form(request.headers["content-type"], request.stream())
    parse = partial(VQARequest.model_validate, form.fields)
    return await parse_and_convert(parse, lambda body: to_question(body, form.files), form.size, service.reading)
