"""Wire shape of OpenAI's POST /v1/chat/completions: a conversation, and how its last question is to be answered."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, FiniteFloat, model_validator

from service.errors import InvalidRequest
from service.schemas import Incoming
from service.schemas.formats import ResponseFormat, schema_of
from service.schemas.images import read_image
from service.schemas.neutral import MESSAGE, REQUEST, without
from service.schemas.vqa import IMAGE_URL, TEXT_LIMIT
from service.types import ChatMessage, Link, Question, Sampling, Upload

# The most tokens of an answer where the request gives no number: of text, and of JSON, which is useless when cut short.
_MAX_TOKENS, _MAX_JSON_TOKENS = 256, 1024
_STOPS, _STOP_LENGTH = 16, 200
_SEED = 2**63
# What clients send as max_tokens for "no limit".
_NO_CEILING = (-1, 0)
# vLLM takes a top_p over 0 only; this one leaves the likeliest token alone to be drawn.
_LEAST_SHARE = 1e-6


class TextPart(Incoming):
    """A text of a message."""

    type: Literal["text"]
    text: Annotated[str, Field(max_length=TEXT_LIMIT)]
    cache_control: Any = None
    annotations: Any = None


class ImageUrl(Incoming):
    """Where an image is; `detail` and `format` are taken for compatibility and change nothing."""

    url: Annotated[str, Field(description="data:image/png;base64,… or an https URL")]
    detail: Annotated[str | None, Field(max_length=20)] = None
    format: Annotated[str | None, Field(max_length=100)] = None


def _image_url(sent: Any) -> Any:
    return {"url": sent} if isinstance(sent, str) else sent


class ImagePart(Incoming):
    """An image of a message."""

    type: Literal["image_url"]
    image_url: Annotated[ImageUrl, BeforeValidator(_image_url, json_schema_input_type=ImageUrl | str)]
    detail: Annotated[str | None, Field(max_length=20)] = None
    cache_control: Any = None


_Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]
_Parts = Annotated[list[_Part], Field(max_length=64)]


def _parts(sent: Any) -> Any:
    if sent is None:
        return []
    return [{"type": "text", "text": sent}] if isinstance(sent, str) else sent


class Message(Incoming):
    """One message of a conversation; fields of a reply that its client sends back, other than its text, are dropped."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        _Parts,
        BeforeValidator(_parts, json_schema_input_type=_Parts | Annotated[str, Field(max_length=TEXT_LIMIT)] | None),
    ] = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _drop_what_asks_for_nothing(cls, sent: Any) -> Any:
        return without(MESSAGE, sent)

    def as_chat_message(self) -> tuple[ChatMessage, tuple[Upload | Link, ...]]:
        """The message as `service.prompt` takes it, its text parts joined by newlines; and its images, in order.

        Raises:
            ImageBroken: a data URL that is not base64.
            ImageTypeRefused: a long data URL that is no image file.
        """
        text = "\n".join(part.text for part in self.content if isinstance(part, TextPart))
        images = tuple(read_image(part.image_url.url) for part in self.content if isinstance(part, ImagePart))
        role = "system" if self.role == "developer" else self.role
        return ChatMessage(role, text if text.strip() else "", len(images)), images


class StreamOptions(Incoming):
    """What a stream has beside the answer's text."""

    include_usage: bool | None = None
    include_obfuscation: Annotated[bool | None, Field(description="chunks are not padded here")] = None
    continuous_usage_stats: Literal[False] | None = None


class ChatRequest(Incoming):
    """A conversation that ends in a question.

    Other fields of OpenAI's or vLLM's may come with a value that asks for nothing, as `"n": 1` or `"tools": []`; with
    any other value they are refused, and the error names the field.
    """

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
    max_completion_tokens: Annotated[int | None, Field(ge=-1, lt=2**31)] = None
    max_tokens: Annotated[
        int | None,
        Field(
            ge=-1,
            lt=2**31,
            description="most tokens of the answer, as far as the context has room; "
            f"{_MAX_TOKENS} when neither is given or it is -1 or 0, {_MAX_JSON_TOKENS} where the answer is JSON",
        ),
    ] = None
    temperature: Annotated[FiniteFloat | None, Field(ge=0, le=2, description="0, which is greedy, when not given")] = (
        None
    )
    top_p: Annotated[FiniteFloat | None, Field(ge=0, le=1)] = None
    seed: Annotated[int | None, Field(ge=-_SEED, lt=_SEED, description="the same draws for the same question")] = None
    stop: Annotated[
        Annotated[str, Field(max_length=_STOP_LENGTH)]
        | Annotated[list[Annotated[str, Field(max_length=_STOP_LENGTH)]], Field(max_length=_STOPS)]
        | None,
        Field(description="the answer ends before the first of these texts"),
    ] = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=20, description="only with logprobs")] = None
    response_format: Annotated[
        ResponseFormat | None, Field(description="json_object, or json_schema: the answer is JSON, and fits it")
    ] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_what_asks_for_nothing(cls, sent: Any) -> Any:
        return without(REQUEST, sent)

    def to_question(self, id_: str, deadline_s: float) -> Question:
        """The question this conversation ends in; messages with neither text nor images are left out.

        `id_` is the answer's id, `deadline_s` the seconds until the request fails.

        Raises:
            InvalidRequest: the last message is not the user's or is empty, or top_logprobs came without logprobs.
            FormatRefused: a response_format that no answer can be held to.
            ImageBroken, ImageTypeRefused: what `read_image` raises.
        """
        messages = [message.as_chat_message() for message in self.messages]
        last = messages[-1][0]
        if last.role != "user":
            raise InvalidRequest(f"the last message is the {last.role}'s: end with the user's question")
        if _empty(last):
            raise InvalidRequest("the last message is empty: ask something, or show an image")
        told = [each for each in messages if not _empty(each[0])]
        images = tuple(image for _, images in told for image in images)
        history = tuple(message for message, _ in told[:-1])
        return Question(id_, last.text, images, self.model, self._sampling(), deadline_s, history=history)

    def _sampling(self) -> Sampling:
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest("top_logprobs: send logprobs: true with it")
        schema = schema_of(self.response_format)
        ceiling = next((each for each in (self.max_completion_tokens, self.max_tokens) if each is not None), -1)
        if ceiling in _NO_CEILING:
            ceiling = _MAX_JSON_TOKENS if schema else _MAX_TOKENS
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Sampling(
            temperature=self.temperature or 0.0,
            max_tokens=ceiling,
            top_p=1.0 if self.top_p is None else max(self.top_p, _LEAST_SHARE),
            seed=self.seed,
            stop=tuple(stop for stop in stops if stop),
            json_schema=schema,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )


def _empty(message: ChatMessage) -> bool:
    return not message.text and not message.pictures
