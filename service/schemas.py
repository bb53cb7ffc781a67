"""Wire shapes: what JSON comes in and goes out. Knows no rule beyond shape; routes turn these into types."""

import base64
import binascii
import re
from typing import Annotated

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, FiniteFloat

from service.errors import ImageBroken, InvalidRequest
from service.types import Answer, Link, Question, Sampling, Upload

_DATA_URL = re.compile(r"data:([a-z0-9/+.-]*)(;[a-z0-9=_.-]+)*?;base64,", re.IGNORECASE)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)  # a colon is no base64
TEXT_LIMIT = 16_000


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class VQARequest(_In):
    """A question about an image, or about none."""

    question: Annotated[str, Field(min_length=1, max_length=TEXT_LIMIT, examples=["what color is the shape?"])]
    image: Annotated[
        str | None, Field(description="data:image/png;base64,…, an https URL, or plain base64 of a PNG, JPEG or WebP")
    ] = None
    adapter: Annotated[
        str | None,
        Field(
            max_length=200,
            validation_alias=AliasChoices("adapter", "model"),
            description="a name from GET /v1/adapters, name@alias, or name@version (eight digits of it or more); "
            "null asks the base model",
            examples=["shapes"],
        ),
    ] = None
    temperature: Annotated[FiniteFloat, Field(ge=0, le=2, description="0 is greedy")] = 0.0
    max_tokens: Annotated[int, Field(ge=1, le=4096, description="longest answer, in tokens")] = 64
    deadline_s: Annotated[FiniteFloat | None, Field(gt=0, le=600, description="seconds until 504")] = None

    def to_question(self, id_: str, deadline_s: float, file: Upload | None = None, key: str | None = None) -> Question:
        """The question this request means; `file` is an image uploaded beside it, `key` what keeps a caller's version.

        Raises:
            InvalidRequest, ImageBroken: two images, or an image that is not base64.
        """
        if self.image is not None and file is not None:
            raise InvalidRequest("the image came twice, as a file and as text: send one")
        image = file if self.image is None else _read_image(self.image)
        sampling = Sampling(self.temperature, self.max_tokens)
        images = () if image is None else (image,)
        return Question(id_, self.question, images, self.adapter, sampling, self.deadline_s or deadline_s, key)


class AdapterRef(BaseModel):
    """Which immutable version answered."""

    name: str
    version: str


class UsageOut(BaseModel):
    """Token counts; prompt_tokens includes image_tokens."""

    prompt_tokens: int
    completion_tokens: int
    image_tokens: int


class TimingOut(BaseModel):
    """Seconds."""

    image_s: float
    queue_s: float
    first_token_s: float
    total_s: float


class VQAResponse(BaseModel):
    """The answer, who gave it, and how sure the model was of exactly these words."""

    id: str
    answer: str
    confidence: Annotated[float, Field(description="probability the model gave to exactly this answer, end included")]
    adapter: AdapterRef | None
    finish_reason: str
    usage: UsageOut
    timing: TimingOut

    @classmethod
    def of(cls, answer: Answer) -> "VQAResponse":
        """The wire shape of an Answer."""
        usage, timing, adapter = answer.usage, answer.timing, answer.adapter
        return cls(
            id=answer.id,
            answer=answer.text,
            confidence=round(answer.confidence, 6),
            adapter=AdapterRef(name=adapter.name, version=adapter.version) if adapter else None,
            finish_reason=answer.finish_reason,
            usage=UsageOut(**{name: getattr(usage, name) for name in UsageOut.model_fields}),
            timing=TimingOut(**{name: round(getattr(timing, name), 6) for name in TimingOut.model_fields}),
        )


class BaseOut(BaseModel):
    """The base model in service."""

    id: str
    precision: str
    digest: str


class ErrorBody(BaseModel):
    """What went wrong, in a word for programs and a sentence for people."""

    code: str
    message: str
    request_id: str


class ErrorResponse(BaseModel):
    """The one shape of every failure."""

    error: ErrorBody


def _read_image(text: str) -> Upload | Link:
    match = _DATA_URL.match(text[:200])
    if match is None and _SCHEME.match(text[:200]):
        return Link(text)
    try:
        data = base64.b64decode(text[match.end() :] if match else text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageBroken(f"field image is not base64 of an image file: {error}") from error
    return Upload(data, match[1] or None if match else None)
