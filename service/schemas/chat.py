"""OpenAI's wire shapes, as far as a LLaVA has them: what its clients send, read and understand as errors."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from service.errors import AdapterNotFound, InvalidRequest
from service.schemas import Incoming
from service.schemas.errors import ErrorBody
from service.schemas.images import read_image
from service.schemas.vqa import IMAGE_URL, TEXT_LIMIT
from service.types import Answer, Link, Question, Sampling, Turn, Upload

_Text = Annotated[str, Field(max_length=TEXT_LIMIT)]
_MAX_TOKENS = 256


class TextPart(Incoming):
    """Words of a message."""

    type: Literal["text"]
    text: _Text


class ImageUrl(Incoming):
    """Where an image is; `detail` is taken for compatibility, the model sees one size."""

    url: Annotated[str, Field(description="data:image/png;base64,… or an https URL")]
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(Incoming):
    """An image of a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


_Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(Incoming):
    """One turn of a conversation; fields that must be null are what clients send back of our own replies."""

    role: Literal["system", "developer", "user", "assistant"]
    content: _Text | Annotated[list[_Part], Field(min_length=1, max_length=64)]
    name: str | None = None
    refusal: None = None
    annotations: None = None
    audio: None = None
    function_call: None = None
    tool_calls: None = None

    def turn(self) -> tuple[Turn, tuple[Upload | Link, ...]]:
        """The turn and its images.

        Raises:
            ImageBroken: a data URL that is not base64.
        """
        parts = [TextPart(type="text", text=self.content)] if isinstance(self.content, str) else self.content
        text = "\n".join(part.text for part in parts if isinstance(part, TextPart))
        images = tuple(read_image(part.image_url.url) for part in parts if isinstance(part, ImagePart))
        return Turn("system" if self.role == "developer" else self.role, text, len(images)), images


class StreamOptions(Incoming):
    """What a stream has beside its words."""

    include_usage: bool = False


class ChatRequest(Incoming):
    """A conversation that ends in a question; what this service does not do is refused, not ignored."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "shapes",
                    "messages": [
                        {
                            "role": "user",
                            "content": [
                                {"type": "image_url", "image_url": {"url": IMAGE_URL}},
                                {"type": "text", "text": "what color is the shape?"},
                            ],
                        }
                    ],
                }
            ]
        }
    )

    model: Annotated[str, Field(max_length=200, description="an id from GET /v1/models: an adapter, or the base")]
    messages: Annotated[list[Message], Field(min_length=1, max_length=64)]
    max_completion_tokens: Annotated[int | None, Field(ge=1, le=4096)] = None
    max_tokens: Annotated[int | None, Field(ge=1, le=4096, description=f"{_MAX_TOKENS} when neither is given")] = None
    temperature: Annotated[FiniteFloat | None, Field(ge=0, le=2, description="0, which is greedy, when not given")] = (
        None
    )
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    n: Annotated[int | None, Field(ge=1, le=1)] = None
    top_p: Annotated[float | None, Field(ge=1, le=1)] = None
    presence_penalty: Annotated[float | None, Field(ge=0, le=0)] = None
    frequency_penalty: Annotated[float | None, Field(ge=0, le=0)] = None
    logprobs: Literal[False] | None = None
    stop: None = None

    def to_question(self, id_: str, deadline_s: float, base: str) -> Question:
        """The question this conversation ends in; a `model` of the name `base` is the base.

        Raises:
            InvalidRequest, ImageBroken: the last turn is not the user's, or an image that is not base64.
        """
        turns = [message.turn() for message in self.messages]
        last = turns[-1][0]
        if last.role != "user":
            raise InvalidRequest(f"the last message is the {last.role}'s: end with the user's question")
        images = tuple(image for _, images in turns for image in images)
        sampling = Sampling(self.temperature or 0.0, self.max_completion_tokens or self.max_tokens or _MAX_TOKENS)
        adapter = None if self.model == base else self.model
        history = tuple(turn for turn, _ in turns[:-1])
        return Question(id_, last.text, images, adapter, sampling, deadline_s, history=history)


class Said(BaseModel):
    """What the assistant says."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """The one answer."""

    index: int = 0
    message: Said
    finish_reason: str
    logprobs: None = None


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
    created: int = 0
    owned_by: str = "manylens"
    parent: str | None = None


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
    def of(cls, status: int, body: ErrorBody) -> "OpenAIErrorResponse":
        """The same failure in OpenAI's words."""
        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
        if body.code == AdapterNotFound.code:
            return cls(error=OpenAIError(message=body.message, type=kind, code="model_not_found", param="model"))
        return cls(error=OpenAIError(message=body.message, type=kind, code=body.code))
