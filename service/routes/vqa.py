"""POST /v1/vqa: JSON or a form with files comes in, JSON or server-sent events go out."""

import json
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile

from service.errors import InvalidRequest
from service.routes import failure, listening
from service.routes.bodies import invalid, read_json
from service.routes.state import Asker, RequestKey, Running
from service.schemas.errors import ErrorResponse
from service.schemas.vqa import VQARequest, VQAResponse
from service.types import Answer, Upload

router = APIRouter(tags=["questions"])

_SCHEMA = VQARequest.model_json_schema()
_FILE = {"type": "string", "format": "binary"}
_FILES = {"image": _FILE, "images": {"type": "array", "items": _FILE}}
_FORM = {**_SCHEMA, "properties": {**_SCHEMA["properties"], **_FILES}}
# A form repeats a field to make a list.
_LISTS = {"images", "choices"}
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
async def ask(
    request: Request, service: Running, tenant: Asker, key: RequestKey = None
) -> VQAResponse | StreamingResponse:
    """Answer a question about an image through an adapter, or through the base model where none is named."""
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        body, files = await _read_form(request, service.settings.images_per_question)
    else:
        body, files = await read_json(request, VQARequest, service.vqa.workers), ()
    id_, deadline_s = f"vqa-{request.state.request_id}", service.settings.deadline_s
    question = await service.vqa.workers.run(body.to_question, id_, deadline_s, files)
    question = replace(question, tenant=tenant, key=key)
    if body.stream:
        fail = partial(_write_error, request.state.request_id)
        return await listening.stream(request, service.vqa.stream(question), _write, fail)
    return VQAResponse.of(await listening.unless_gone(request.receive, service.vqa.answer(question)))


def _write(said: str | Answer) -> str:
    if isinstance(said, str):
        return f"data: {json.dumps({'delta': said})}\n\n"
    return f"data: {VQAResponse.of(said).model_dump_json()}\n\ndata: [DONE]\n\n"


def _write_error(request_id: str, error: Exception) -> str:
    body = ErrorResponse(error=failure.describe(error, request_id).body)
    return f"event: error\ndata: {body.model_dump_json()}\n\n"


async def _read_form(request: Request, max_files: int) -> tuple[VQARequest, tuple[Upload, ...]]:
    async with request.form(max_files=max_files, max_fields=100) as form:
        files = await _read_files(form)
        texts = [(name, value) for name, value in form.multi_items() if not isinstance(value, UploadFile)]
        fields: dict[str, Any] = dict(texts)
        for several in _LISTS & fields.keys():
            fields[several] = [value for name, value in texts if name == several]
        try:
            return VQARequest.model_validate(fields), files
        except ValidationError as error:
            raise invalid(error) from error


async def _read_files(form: FormData) -> tuple[Upload, ...]:
    files = [(name, value) for name, value in form.multi_items() if isinstance(value, UploadFile)]
    if unknown := {name for name, _ in files} - {"image", "images"}:
        raise InvalidRequest(f"field {sorted(unknown)[0]} is a file: only image and images may be")
    return tuple([Upload(await file.read(), file.content_type) for _, file in files])
