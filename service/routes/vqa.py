"""POST /v1/vqa, as JSON or as a form with a file."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile

from service.errors import InvalidRequest
from service.routes.state import Service, get_service
from service.schemas import VQARequest, VQAResponse
from service.types import Upload

router = APIRouter(tags=["questions"])

KEY = "questions with one key get one version of an adapter, while its traffic is shared out between two"
_SCHEMA = VQARequest.model_json_schema()
_FORM = {**_SCHEMA, "properties": {**_SCHEMA["properties"], "image": {"type": "string", "format": "binary"}}}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": _SCHEMA}, "multipart/form-data": {"schema": _FORM}},
    }
}


@router.post("/v1/vqa", openapi_extra=_BODY)
async def ask(
    request: Request,
    service: Annotated[Service, Depends(get_service)],
    x_request_key: Annotated[str | None, Header(max_length=200, description=KEY)] = None,
) -> VQAResponse:
    """Answer a question about an image through an adapter, or through the base model where none is named."""
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        body, file = await _read_form(request)
    else:
        # At worst megabytes of base64: parsing it is work for a thread, and so is decoding it below.
        body, file = await service.vqa.workers.run(_parse_json, await request.body()), None
    id_, deadline_s = f"vqa-{request.state.request_id}", service.settings.deadline_s
    question = await service.vqa.workers.run(body.to_question, id_, deadline_s, file, x_request_key)
    return VQAResponse.of(await service.vqa.answer(question))


def _parse_json(body: bytes) -> VQARequest:
    try:
        return VQARequest.model_validate_json(body)
    except ValidationError as error:
        raise _invalid(error) from error


async def _read_form(request: Request) -> tuple[VQARequest, Upload | None]:
    async with request.form(max_files=1, max_fields=20) as form:
        file = await _read_file(form)
        fields: dict[str, Any] = {
            name: value for name, value in form.multi_items() if not isinstance(value, UploadFile)
        }
        try:
            return VQARequest.model_validate_strings(fields), file
        except ValidationError as error:
            raise _invalid(error) from error


async def _read_file(form: FormData) -> Upload | None:
    files = {name: value for name, value in form.multi_items() if isinstance(value, UploadFile)}
    if unknown := files.keys() - {"image"}:
        raise InvalidRequest(f"field {sorted(unknown)[0]} is a file: only image may be one")
    return Upload(await files["image"].read(), files["image"].content_type) if files else None


def _invalid(error: ValidationError) -> InvalidRequest:
    faults = (
        f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}" for fault in error.errors(include_url=False)
    )
    return InvalidRequest("; ".join(faults))
