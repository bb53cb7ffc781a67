"""Every way a request or an adapter can fail; classes carry the HTTP status and the code, raisers carry the words.

ServiceError                      500 internal
├── MalformedRequest              400 malformed_request    (no HTTP, no JSON, no Unicode)
├── RequestTooSlow                408 request_too_slow
├── HeadTooLarge                  431 head_too_large
├── InvalidRequest                422 invalid_request
│   ├── NotCalibrated             422 not_calibrated       (abstain_below, of a version that has no calibration)
│   ├── PromptTooLong             422 prompt_too_long      (400 to OpenAI's clients, in their word)
│   ├── FormatRefused             400 format_refused       (a response_format that no answer can be held to)
│   ├── ImageShapeRefused         422 image_shape_refused
│   └── ImageNotThere             422 image_not_there      (its host says so)
├── BodyTypeRefused               415 body_type_refused    + Accept-Encoding (a type or an encoding of the body)
├── ImageBroken                   400 image_broken
├── ImageTypeRefused              415 image_type_refused
├── ImageTooLarge                 413 image_too_large
├── BodyTooLarge                  413 body_too_large
├── TextTooLong                   413 text_too_long
├── UrlRefused                    400 url_refused
├── FetchFailed                   502 fetch_failed
├── FetchTimeout                  504 fetch_timeout
├── Unauthorized                  401 unauthorized         + WWW-Authenticate
├── Forbidden                     403 forbidden
├── AdapterNotFound               404 adapter_not_found
│   └── AdapterUnknown            404 adapter_not_found    (nothing goes by that name; says what can be asked)
├── NotServed                     404 not_served           (another of OpenAI's routes; says which to use)
├── QuestionNotFound              404 question_not_found   (what feedback is about)
├── NotKept                       503 not_kept             + Retry-After
├── AdapterRefused                409 adapter_refused      (while loading, never on a question)
├── LimitReached                  429 limit_reached        + Retry-After (the caller's own limit)
├── Overloaded                    503 overloaded           + Retry-After (the service is full)
├── Draining                      503 draining             + Retry-After (the service is being shut down)
├── DeadlineExceeded              504 deadline_exceeded
├── Cancelled                     499 cancelled            (the client hung up: nobody reads it)
├── StoreUnavailable              503 store_unavailable    + Retry-After
├── AdapterUnavailable            503 adapter_unavailable  + Retry-After (this one, for now)
└── EngineUnavailable             503 engine_unavailable   + Retry-After
"""

from typing import ClassVar


class ServiceError(Exception):
    """The root: something this service can name, with a sentence for the caller that says the way out."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    retry_after_s: int | None = None
    # Whether its request's outcome was counted already, where the question was answered or was not.
    recorded: bool = False

    @property
    def message(self) -> str:
        """The sentence the caller reads."""
        return str(self)

    @property
    def headers(self) -> dict[str, str]:
        """What the response says beside its body."""
        return {} if self.retry_after_s is None else {"retry-after": str(self.retry_after_s)}


class MalformedRequest(ServiceError):
    """Bytes that are no HTTP or no JSON with each key once, or text that is no Unicode."""

    status = 400
    code = "malformed_request"


class RequestTooSlow(ServiceError):
    """A request that did not come in time; its connection is closed."""

    status = 408
    code = "request_too_slow"


class HeadTooLarge(ServiceError):
    """More bytes of headers than any client needs; the connection is closed."""

    status = 431
    code = "head_too_large"


class InvalidRequest(ServiceError):
    """The request is well-formed but means nothing we can do."""

    status = 422
    code = "invalid_request"


class NotCalibrated(InvalidRequest):
    """A threshold for calibrated confidence was asked for, and what would answer has no calibration."""

    code = "not_calibrated"

    def __init__(self, adapter: str | None) -> None:
        """`adapter` is the version that would answer, None the base."""
        super().__init__(
            f"abstain_below: {adapter or 'the base'} has no calibrated confidence to hold against it: ask an adapter"
            " that `python -m trainer calibrate` was run for, or leave abstain_below out"
        )


class PromptTooLong(InvalidRequest):
    """Question and images leave no room in the model's context for an answer, or for the choices or beams asked for."""

    code = "prompt_too_long"


def too_long(context: int, left: int, needed: int) -> PromptTooLong:
    """The error of a prompt that leaves `left` tokens of a context, or less than none, where some are `needed`.

    It begins with the words by which clients, LiteLLM for one, know this error among others.
    """
    return PromptTooLong(
        f"this model's maximum context length is {context} tokens: question and pictures take {context - left} and an "
        f"answer needs {needed}: shorten the question, or ask for less"
    )


class FormatRefused(InvalidRequest):
    """A JSON schema for the answer that is too large, not valid, or says what no answer can be held to."""

    status = 400
    code = "format_refused"


class ImageShapeRefused(InvalidRequest):
    """An image too narrow or too small to be worth a question."""

    code = "image_shape_refused"


class ImageNotThere(InvalidRequest):
    """The host behind an image's URL answered that it will not give it, as it will the next time: 403, 404, 410."""

    code = "image_not_there"


class BodyTypeRefused(ServiceError):
    """A body of a media type or a content encoding that its route does not read."""

    status = 415
    code = "body_type_refused"

    @property
    def headers(self) -> dict[str, str]:
        """RFC 9110 wants a 415 to say which encodings would do."""
        return {"accept-encoding": "identity"}


class ImageBroken(ServiceError):
    """Bytes that do not decode to an image, or no bytes at all."""

    status = 400
    code = "image_broken"


class ImageTypeRefused(ServiceError):
    """Not an image file, or of a kind that is not decoded here."""

    status = 415
    code = "image_type_refused"


class ImageTooLarge(ServiceError):
    """More bytes, pixels, scans or memory than we decode; found in the header, before any pixel is."""

    status = 413
    code = "image_too_large"


class BodyTooLarge(ServiceError):
    """A request body over the limit, found while it is read."""

    status = 413
    code = "body_too_large"


class TextTooLong(ServiceError):
    """A text over what its field may hold."""

    status = 413
    code = "text_too_long"


class UrlRefused(ServiceError):
    """A URL we do not fetch, by its form or by the address its host has; nothing was asked of that address."""

    status = 400
    code = "url_refused"


class FetchFailed(ServiceError):
    """The host behind an image's URL gave no image: unknown, unreachable, or another answer than 200."""

    status = 502
    code = "fetch_failed"


class FetchTimeout(ServiceError):
    """The host behind an image's URL was too slow; the request's own deadline is DeadlineExceeded."""

    status = 504
    code = "fetch_timeout"


class Unauthorized(ServiceError):
    """No key, or one that is nobody's."""

    status = 401
    code = "unauthorized"

    @property
    def headers(self) -> dict[str, str]:
        """RFC 9110 wants a 401 to say how to authenticate."""
        return {"www-authenticate": "Bearer"}


class Forbidden(ServiceError):
    """The key is somebody's who may not do this."""

    status = 403
    code = "forbidden"


class AdapterNotFound(ServiceError):
    """No adapter of that name, alias or version is served."""

    status = 404
    code = "adapter_not_found"


class AdapterUnknown(AdapterNotFound):
    """Nothing goes by that name."""


class NotServed(ServiceError):
    """A route that OpenAI's clients know and this service does not have."""

    status = 404
    code = "not_served"


class QuestionNotFound(ServiceError):
    """Feedback on a question that is not kept, or not of this caller."""

    status = 404
    code = "question_not_found"


class NotKept(ServiceError):
    """Feedback that could not be written down."""

    status = 503
    code = "not_kept"
    retry_after_s = 60


class AdapterRefused(ServiceError):
    """An adapter that must not be served; `reason` is a short word for metrics and lists."""

    status = 409
    code = "adapter_refused"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class AliasesChanged(ServiceError):
    """A change that was to be made only to the aliases its caller had seen; they are others by now."""

    status = 412
    code = "aliases_changed"


class LimitReached(ServiceError):
    """The caller's own limit, of rate or of requests at once; others are served."""

    status = 429
    code = "limit_reached"

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Overloaded(ServiceError):
    """As many requests run and wait as the service was set to hold."""

    status = 503
    code = "overloaded"

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Draining(ServiceError):
    """The service is being shut down: it takes no more requests, or no longer works on this one."""

    status = 503
    code = "draining"
    retry_after_s = 5


class DeadlineExceeded(ServiceError):
    """The request's own deadline passed before its answer was complete."""

    status = 504
    code = "deadline_exceeded"


class Cancelled(ServiceError):
    """The client hung up before its answer was complete."""

    status = 499
    code = "cancelled"


class StoreUnavailable(ServiceError):
    """The adapter store cannot be read or written just now; what is loaded serves on."""

    status = 503
    code = "store_unavailable"
    retry_after_s = 5


class AdapterUnavailable(ServiceError):
    """A version that did not load or answer its probes when last tried, and is tried again; `reason` is as above."""

    status = 503
    code = "adapter_unavailable"

    def __init__(self, reason: str, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.reason, self.retry_after_s = reason, retry_after_s


class EngineUnavailable(ServiceError):
    """The engine is not there: starting, stopped or dead."""

    status = 503
    code = "engine_unavailable"
    retry_after_s = 5
