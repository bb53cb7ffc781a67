"""OpenAI's routes, for OpenAI's clients; the base and each adapter are models to them."""

import json
import time
from dataclasses import dataclass, field, replace
from typing import Any

from fastapi import APIRouter, Request, Response

from service.adapters.routing import some
from service.answer_id import answer_id
from service.errors import AdapterNotFound, NotServed
from service.routes import failure, listening
from service.routes.bodies import documented, read_json
from service.routes.direct import Direct
from service.routes.state import Caller, RequestKey, Running, Service
from service.schemas.chat import ChatRequest
from service.schemas.openai import (
    ChatChoice,
    ChatResponse,
    ChatUsage,
    Logprobs,
    ModelOut,
    ModelsResponse,
    OpenAIErrorResponse,
    Said,
)
from service.types import Answer, Question

_FAILURE: dict[int | str, dict[str, Any]] = {
    "default": {"model": OpenAIErrorResponse, "description": "Every failure has this shape"}
}
router = APIRouter(tags=["openai"], responses=_FAILURE, route_class=Direct)
others = APIRouter(tags=["openai"], responses=_FAILURE)
_CHAT = "/v1/chat/completions"
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            "text/event-stream": {
                "example": 'data: {"object": "chat.completion.chunk", "choices": […], …}\n\ndata: [DONE]\n\n'
            }
        }
    }
}


@others.get("/v1/models/", include_in_schema=False)  # else a model of no name
@others.get("/v1/models", response_model=ModelsResponse)
async def list_models(service: Running, tenant: Caller) -> Response:
    """List the base and the adapters that serve."""
    names = service.vqa.names(tenant)

    def written() -> bytes:  # on a thread, for there may be ten thousand
        return ModelsResponse(data=[_model(service, name) for name in names]).model_dump_json().encode()

    return Response(await service.workers.run(written), media_type="application/json")


@others.get("/v1/models/{model:path}")
async def get_model(model: str, service: Running, tenant: Caller) -> ModelOut:
    """Look one model up by its id."""
    names = service.vqa.names(tenant)
    if model not in names:
        raise AdapterNotFound(f"no model {model[:64]!r}; there are: {some(names)}")
    return _model(service, model)


def _model(service: Service, name: str) -> ModelOut:
    parent = None if name == service.base.id else service.base.id
    return ModelOut(id=name, created=service.began, parent=parent, max_model_len=service.engine.max_model_len)


@others.api_route("/v1/completions", methods=["GET", "POST"], include_in_schema=False)
@others.api_route("/v1/responses", methods=["GET", "POST"], include_in_schema=False)
@others.api_route("/v1/embeddings", methods=["GET", "POST"], include_in_schema=False)
async def refuse(request: Request) -> None:
    """Say what to use instead of those of OpenAI's routes that clients try, and that make no sense here."""
    raise NotServed(
        f"{request.url.path} is not served: ask at POST {_CHAT} with messages, or at POST /v1/vqa with a question"
    )


@router.post(_CHAT, openapi_extra=documented(_CHAT, ChatRequest), response_model=ChatResponse, responses=_STREAM)
async def chat(request: Request, service: Running, tenant: Caller, key: RequestKey = None) -> Response:
    """Answer the question a conversation ends in."""
    id_ = answer_id("chatcmpl", request.state.request_id)

    def to_question(body: ChatRequest) -> Question:
        return replace(body.to_question(id_, service.deadline_s), tenant=tenant, key=key)

    body, question = await read_json(request, ChatRequest, service.reading, to_question)
    service.vqa.turn_away(question)
    body = body.model_copy(update={"messages": []})  # which have the images as text
    if body.stream:
        writer = _Writer(id_, body, request.state.request_id)
        return await listening.stream(request, service.vqa.stream(question), writer.write, writer.fail)
    answer = await listening.unless_gone(request.receive, service.vqa.answer(question))
    said = ChatResponse(
        id=id_,
        created=int(time.time()),
        model=body.model,
        system_fingerprint=answer.adapter.version if answer.adapter else None,
        choices=[
            ChatChoice(
                message=Said(content=answer.text),
                finish_reason=answer.finish_reason,
                logprobs=Logprobs.of(answer) if body.logprobs else None,
            )
        ],
        usage=ChatUsage.of(answer),
    )
    return Response(said.model_dump_json(), media_type="application/json")


@dataclass
class _Writer:
    """Writes one stream as OpenAI's chunks: the first has the role; the last the finish reason, and logprobs if any."""

    id: str
    body: ChatRequest
    request_id: str
    created: int = field(default_factory=lambda: int(time.time()))
    role: dict[str, str] = field(default_factory=lambda: {"role": "assistant"})

    def write(self, said: str | Answer) -> str:
        role, self.role = self.role, {}
        if isinstance(said, str):
            return self._chunk([self._choice({**role, "content": said}, None)])
        last = self._chunk([self._choice(role, said.finish_reason, Logprobs.of(said) if self.body.logprobs else None)])
        if self.body.stream_options and self.body.stream_options.include_usage:
            last += self._chunk([], ChatUsage.of(said).model_dump())
        return f"{last}data: [DONE]\n\n"

    def fail(self, error: Exception) -> str:
        told = failure.describe(error, self.request_id)
        _, body = OpenAIErrorResponse.of(told.status, told.body)
        return f"data: {body.model_dump_json()}\n\n"

    @staticmethod
    def _choice(delta: dict[str, str], finish_reason: str | None, tokens: Logprobs | None = None) -> dict[str, Any]:
        logprobs = tokens.model_dump() if tokens else None
        return {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": logprobs}

    def _chunk(self, choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> str:
        chunk = {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.body.model,
            "choices": choices,
            "usage": usage,
        }
        return f"data: {json.dumps(chunk)}\n\n"
