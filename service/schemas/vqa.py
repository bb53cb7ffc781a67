"""Wire shapes of a question and its answer, as JSON and as a form's fields."""

from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints, model_validator

from service.errors import InvalidRequest
from service.schemas import Incoming
from service.schemas.images import ImageText, read_image
from service.types import Answer, Link, Question, Sampling, Upload

TEXT_LIMIT = 16_000
MOST_IMAGES = 64  # the most that --images-per-question can be set to
_UNSEARCHED = ("choices", "temperature", "stream")  # fields that may not come together with beams
IMAGE_URL = "https://example.com/chart.png"  # of examples


_Choice = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000)]


class ImageFields(Incoming):
    """The fields of a request that hold its images."""

    image: Annotated[
        ImageText | None,
        Field(description="data:image/png;base64,…, an https URL, or plain base64; its bytes say what kind it is"),
    ] = None
    images: Annotated[
        tuple[ImageText, ...],
        Field(max_length=MOST_IMAGES, description="several, each as in `image`, in the order the model sees"),
    ] = ()

    def read_images(self, files: tuple[Upload, ...] = ()) -> tuple[Upload | Link, ...]:
        """The images in order; `files` are those uploaded beside the fields.

        Raises:
            InvalidRequest: images came both as text and as files.
            ImageBroken, ImageTypeRefused: what `read_image` raises.
        """
        texts = [*([] if self.image is None else [self.image]), *self.images]
        if texts and files:
            raise InvalidRequest("images came as files and as text: send either")
        return (*files, *(read_image(text) for text in texts))


class QuestionFields(Incoming):
    """The fields of a request that hold one question, the adapter to ask, and how to answer."""

    question: Annotated[str, Field(min_length=1, max_length=TEXT_LIMIT, examples=["what color is the shape?"])]
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
    choices: Annotated[
        list[_Choice] | None,
        Field(
            min_length=2,
            max_length=32,
            description="the answer is one of these, each with its probability",
            examples=[["yes", "no"]],
        ),
    ] = None
    temperature: Annotated[FiniteFloat, Field(ge=0, le=2, description="0 is greedy")] = 0.0
    beams: Annotated[
        int,
        Field(
            ge=1,
            le=8,
            description="over 1: the best answer that beam search of this width finds, by log-probability per token; "
            "not with choices, a temperature or stream",
        ),
    ] = 1
    max_tokens: Annotated[int, Field(ge=1, le=4096, description="longest answer, in tokens")] = 64
    abstain_below: Annotated[
        FiniteFloat | None,
        Field(
            ge=0,
            le=1,
            description="a calibrated confidence: an answer below it comes with `abstained` true. 422 where what "
            "answers has no calibration, the base for one",
            examples=[0.9],
        ),
    ] = None
    priority: Annotated[int, Field(ge=0, le=9, description="higher goes earlier; your key says how high it may")] = 0

    def to_question_about(
        self, id_: str, images: tuple[Upload | Link, ...], adapter: str | None, deadline_s: float
    ) -> Question:
        """These fields as a Question about `images`, asked of `adapter` (None: the base) whatever `self.adapter` says.

        `id_` is the answer's id, `deadline_s` the seconds until the request fails.

        Raises:
            InvalidRequest: beams came with choices, a temperature or stream.
        """
        if self.beams > 1 and (beside := [name for name in _UNSEARCHED if getattr(self, name, None)]):
            raise InvalidRequest(f"beams does not go with {', '.join(beside)}: send one or the other")
        sampling, choices = Sampling(self.temperature, self.max_tokens), tuple(self.choices or ())
        return Question(
            id_,
            self.question,
            images,
            adapter,
            sampling,
            deadline_s,
            choices,
            priority=self.priority,
            beams=self.beams,
            abstain_below=self.abstain_below,
        )


class VQARequest(ImageFields, QuestionFields):
    """A question about an image, several, or none."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"image": IMAGE_URL, "question": "what color is the shape?", "adapter": "shapes"},
                {"image": IMAGE_URL, "question": "is there a circle?", "adapter": "shapes", "choices": ["yes", "no"]},
            ]
        }
    )

    stream: Annotated[bool, Field(description="answer server-sent events: pieces, the whole, [DONE]")] = False
    deadline_s: Annotated[FiniteFloat | None, Field(gt=0, le=600, description="seconds until 504")] = None

    def to_question(self, id_: str, deadline_s: float, files: tuple[Upload, ...] = ()) -> Question:
        """The request as a Question; `files` are images uploaded beside its fields.

        `id_` is the answer's id; `deadline_s`, in seconds, holds where the request gives none of its own.

        Raises: what `read_images` and `to_question_about` raise.
        """
        return self.to_question_about(id_, self.read_images(files), self.adapter, self.deadline_s or deadline_s)


class Invocation(VQARequest):
    """A VQARequest, or one as Hugging Face's containers take it: its question in `inputs`, the rest in `parameters`."""

    @model_validator(mode="before")
    @classmethod
    def _unwrapped(cls, body: Any) -> Any:
        if not isinstance(body, dict) or not isinstance(body.get("inputs"), dict):
            return body
        parameters = body.get("parameters", {})
        if not body.keys() <= {"inputs", "parameters"} or not isinstance(parameters, dict):
            raise ValueError("beside inputs only parameters may stand, both of them objects")
        return {**parameters, **body["inputs"]}


class ChoiceOut(BaseModel):
    """One of the question's choices; their probabilities sum to 1."""

    text: str
    probability: float


class AdapterRef(BaseModel):
    """The adapter and version that answered."""

    name: str
    version: str


class UsageOut(BaseModel):
    """Token counts; prompt_tokens includes image_tokens."""

    prompt_tokens: int
    completion_tokens: int
    image_tokens: int


class TimingOut(BaseModel):
    """Seconds: images were fetched and decoded, the request waited for a slot; to its first token and its end."""

    image_s: float
    queue_s: float
    first_token_s: float
    total_s: float


class VQAResponse(BaseModel):
    """The answer, the adapter that gave it, and how sure the model was of it."""

    id: str
    answer: str
    confidence: Annotated[
        float,
        Field(
            description="probability, 0 to 1, that the model gave to this answer: the product over its tokens, "
            "its end included unless finish_reason is length; temperature and the other choices play no part"
        ),
    ]
    calibrated_confidence: Annotated[
        float | None,
        Field(
            description="of held-out answers with such a confidence the share that was right, 0 to 1; null where the "
            "version that answered has no calibration, as the base"
        ),
    ]
    abstained: Annotated[
        bool | None,
        Field(
            description="whether calibrated_confidence is below abstain_below, where that was sent: the answer is "
            "given all the same, to be looked at rather than acted on"
        ),
    ]
    expected_error: Annotated[
        float | None,
        Field(
            description="with abstain_below: of held-out answers at or above it the share that was wrong; null where "
            "none was"
        ),
    ]
    expected_coverage: Annotated[
        float | None, Field(description="with abstain_below: the share of held-out answers at or above it")
    ]
    none_of_these: Annotated[
        float | None,
        Field(description="with choices: the probability, 0 to 1, of all answers that are none of the choices"),
    ]
    choices: Annotated[list[ChoiceOut] | None, Field(description="as many as the question gave, in its order")]
    adapter: AdapterRef | None
    finish_reason: str
    usage: UsageOut
    timing: TimingOut

    @classmethod
    def of(cls, answer: Answer) -> "VQAResponse":
        """The wire shape of an Answer."""
        usage, timing, adapter, told = answer.usage, answer.timing, answer.adapter, answer.abstention
        return cls(
            id=answer.id,
            answer=answer.text,
            confidence=round(answer.confidence, 6),
            calibrated_confidence=_rounded(answer.calibrated),
            abstained=told.abstained if told else None,
            expected_error=_rounded(told.risk) if told else None,
            expected_coverage=_rounded(told.coverage) if told else None,
            none_of_these=_rounded(answer.none_of_these),
            choices=[ChoiceOut(text=each.text, probability=each.probability) for each in answer.choices] or None,
            adapter=AdapterRef(name=adapter.name, version=adapter.version) if adapter else None,
            finish_reason=answer.finish_reason,
            usage=UsageOut(**{name: getattr(usage, name) for name in UsageOut.model_fields}),
            timing=TimingOut(**{name: round(getattr(timing, name), 6) for name in TimingOut.model_fields}),
        )


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 6)
