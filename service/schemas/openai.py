"""Wire shapes of what OpenAI's clients are answered: chat completions, models and errors."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from service.errors import AdapterNotFound, FormatRefused, PromptTooLong
from service.schemas.errors import ErrorBody
from service.types import Answer, Token

# Our codes in OpenAI's words, and the field each is about.
_CODES = {
    AdapterNotFound.code: ("model_not_found", "model"),
    PromptTooLong.code: ("context_length_exceeded", "messages"),
    FormatRefused.code: (FormatRefused.code, "response_format"),
}


class Said(BaseModel):
    """The answer as a message."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Likely(BaseModel):
    """A token, its natural-log probability and its UTF-8 bytes."""

    token: str
    logprob: float
    bytes: list[int]

    @classmethod
    def of(cls, text: str, logprob: float) -> "Likely":
        """A token by its text and natural-log probability."""
        return cls(token=text, logprob=logprob, bytes=list(text.encode(errors="replace")))


class Told(Likely):
    """A token of the answer, and the likeliest tokens at its position."""

    top_logprobs: list[Likely]


class Logprobs(BaseModel):
    """The answer's tokens, where the request asked for them."""

    content: list[Told]
    refusal: None = None

    @classmethod
    def of(cls, answer: Answer) -> "Logprobs":
        """The tokens of an Answer."""
        return cls(content=[cls._told(token) for token in answer.tokens])

    @staticmethod
    def _told(token: Token) -> Told:
        likeliest = [Likely.of(*each) for each in token.likeliest]
        return Told(**Likely.of(token.text, token.logprob).model_dump(), top_logprobs=likeliest)


class ChatChoice(BaseModel):
    """The one answer."""

    index: int = 0
    message: Said
    finish_reason: str
    logprobs: Logprobs | None = None


class ChatUsage(BaseModel):
    """Token counts; prompt_tokens includes the images'."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, answer: Answer) -> "ChatUsage":
        """The counts of an Answer."""
        prompt, completion = answer.usage.prompt_tokens, answer.usage.completion_tokens
        return cls(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


class ChatResponse(BaseModel):
    """A whole answer; the fingerprint is the adapter version that gave it."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str | None
    choices: list[ChatChoice]
    usage: ChatUsage


class ModelOut(BaseModel):
    """A model one can name: the base or an adapter, whose parent is the base."""

    id: str
    object: Literal["model"] = "model"
    created: Annotated[int, Field(description="when this service began, in seconds since 1970")]
    owned_by: str = "manylens"
    parent: str | None = None
    max_model_len: Annotated[
        int | None, Field(description="prompt and answer together, in tokens; null while the engine starts")
    ]


class ModelsResponse(BaseModel):
    """What GET /v1/models answers."""

    object: Literal["list"] = "list"
    data: list[ModelOut]


class OpenAIError(BaseModel):
    """What went wrong, as OpenAI's clients expect it."""

    message: str
    type: str
    code: str
    param: str | None = None


class OpenAIErrorResponse(BaseModel):
    """The shape of every failure of OpenAI's routes."""

    error: OpenAIError

    @classmethod
    def of(cls, status: int, body: ErrorBody) -> tuple[int, "OpenAIErrorResponse"]:
        """OpenAI's status and error body for our `status` and `body`: too long a prompt is 400, not 422."""
        if body.code == PromptTooLong.code:
            status = 400
        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
        code, param = _CODES.get(body.code, (body.code, None))
        return status, cls(error=OpenAIError(message=body.message, type=kind, code=code, param=param))
