"""One frozen type for each step of a request: Question -> Query -> Delta -> Answer. Data only.

A Question is a request as its caller sent it. A Query is the same for the engine: token ids and prepared pictures. A
Delta is what the engine adds to the answer in one step. An Answer is the whole result.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from PIL import Image

TokenIds = tuple[int, ...]

# What a request named, so that this version of an adapter answers: the alias `stable` (or no alias), another alias
# (`canary`), or the version's own digest (`pinned`).
Release = Literal["stable", "canary", "pinned"]


@dataclass(frozen=True, slots=True)
class Adapter:
    """One immutable adapter version whose files lie in a local directory."""

    name: str
    version: str
    path: Path = field(compare=False)

    @property
    def key(self) -> str:
        """NAME@VERSION, by which the engine knows and caches it; VERSION is a digest: new weights have a new key."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class Picture:
    """The RGB image that the model sees, size x size pixels, and its digest, by which the engine's caches know it."""

    image: Image.Image
    digest: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn; with a temperature of 0 the likeliest is taken (greedy).

    `max_tokens` is the most tokens of the answer; it has fewer where the context has no room for them. `top_p`, over 0
    and at most 1, draws from the likeliest tokens whose probabilities come to that sum. With a `seed` the same draws
    are made again. The answer ends before the first of the texts in `stop`. `json_schema` is a JSON schema as JSON
    text; the answer fits it unless `max_tokens` cuts it short. `logprobs`, where it is not None, asks for the answer's
    tokens, each with so many of the likeliest tokens at its position.
    """

    temperature: float = 0.0
    max_tokens: int = 64
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    json_schema: str | None = None
    logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class Tenant:
    """The holder of a key, and what it may do by the file of keys (service/auth.py). The default may do everything.

    `admin` may change what is served. `adapters` are the names it may ask, or shell patterns of them. `rate` is the
    most questions in a time, as "10/second", and `concurrency` the most requests that run or wait at once; None: no
    limit. `priority` is the highest that its requests may have.
    """

    name: str = ""
    admin: bool = True
    adapters: tuple[str, ...] = ("*",)
    rate: str | None = None
    concurrency: int | None = None
    priority: int = 9

    def sees(self, reference: str) -> bool:
        """Whether it may ask the adapter of a reference (NAME, NAME@ALIAS, NAME@VERSION), and see that there is one."""
        return any(fnmatchcase(reference.partition("@")[0], pattern) for pattern in self.adapters)


ANYONE = Tenant()


@dataclass(frozen=True, slots=True)
class Upload:
    """An encoded image file as it was sent; its kind is told by its bytes, not by the content type it came with."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Link:
    """The URL of an image still to be fetched; it was not yet checked in any way."""

    url: str


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a conversation: who says it, its text, and the number of images that it shows."""

    role: Literal["system", "user", "assistant"]
    text: str
    pictures: int = 0


@dataclass(frozen=True, slots=True)
class Question:
    """What a caller asks: text, images, the adapter by name (None: the base) and a deadline in seconds.

    `history` are the messages before it; the first of `images` are those that they show, the rest the question's own.
    With `choices` the answer is one of these texts. A `priority` of 0 to 9, higher going earlier, may not be over the
    `tenant`'s. Questions with the same `key` get the same version of an adapter whose questions are shared out between
    two. With `beams` over 1 the answer is found by beam search (service/beams.py). Where its tenant has as many
    requests as its concurrency allows, a `patient` question waits for one of them to end; others are refused.
    `abstain_below`, 0 to 1: an answer whose calibrated confidence is lower is marked as one not to act on.
    """

    id: str
    text: str
    images: tuple[Upload | Link, ...] = ()
    adapter: str | None = None
    sampling: Sampling = Sampling()
    deadline_s: float = 30.0
    choices: tuple[str, ...] = ()
    history: tuple[ChatMessage, ...] = ()
    tenant: Tenant = ANYONE
    priority: int = 0
    key: str | None = None
    beams: int = 1
    patient: bool = False
    abstain_below: float | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """What the engine runs: token ids with one placeholder per picture.

    `choices` are the answers it may give, as token ids that end in the end token; empty: any answer. `scope` is the
    tenant's name: queries of one scope share the engine's caches of prompts and pictures, others do not, or the time
    of an answer would tell one tenant what another asked. `whole`: nobody reads the answer while it is written, so the
    engine may give its text in fewer and larger deltas.
    """

    id: str
    token_ids: TokenIds
    pictures: tuple[Picture, ...] = ()
    adapter: Adapter | None = None
    sampling: Sampling = Sampling()
    choices: tuple[TokenIds, ...] = ()
    scope: str = ""
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Scores:
    """The natural-log probability of each of a query's choices, end token included, in their order.

    `prompt_tokens` counts the prompt as the engine ran it, pictures expanded.
    """

    logprobs: tuple[float, ...]
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Continuations:
    """The likeliest next token ids with their natural-log probabilities, after each beginning of an answer, in order.

    `prompt_tokens` counts the prompt as the engine ran it, pictures expanded.
    """

    after: tuple[Mapping[int, float], ...]
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an answer: its text, its natural-log probability, and the likeliest tokens at its position.

    Probabilities are the model's own, before temperature, `top_p` or a schema change them.
    """

    text: str
    logprob: float
    likeliest: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """What the engine adds in one step. `logprob` is the natural-log probability of the whole answer so far.

    `prompt_tokens` counts the prompt as the engine ran it, pictures expanded; `finish_reason` is set on the last delta.
    `told` are the step's tokens where the query asks for `logprobs`, without the end token. `made` returns the number
    of the answer's tokens at the time it is called, with those that the engine keeps for a later delta; None: it keeps
    none, and `tokens` add up to that number.
    """

    text: str
    tokens: int
    logprob: float
    prompt_tokens: int
    finish_reason: str | None = None
    told: tuple[Token, ...] = ()
    made: Callable[[], int] | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts; `prompt_tokens` includes `image_tokens`."""

    prompt_tokens: int
    completion_tokens: int
    image_tokens: int


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of a request.

    `image_s` went to fetching and decoding its images, `queue_s` to the waits before it held a slot, images aside.
    `first_token_s` and `total_s` count from when it was accepted to its first token and to its end.
    """

    image_s: float
    queue_s: float
    first_token_s: float
    total_s: float


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a question's choices; the probabilities of all its choices sum to 1."""

    text: str
    probability: float


@dataclass(frozen=True, slots=True)
class Abstention:
    """Whether an answer's calibrated confidence is below `abstain_below`, and what that threshold did on held-out rows.

    `coverage` is the share of those rows at or above the threshold, `risk` the share of these that was wrong, both 0 to
    1; both None where no row was at or above it.
    """

    abstained: bool
    risk: float | None
    coverage: float | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the caller gets; its probabilities and shares are 0 to 1.

    `confidence` is the product of the probabilities that the model gave to the answer's tokens, end token included.
    `calibrated` is the share of answers with such a confidence that was right on held-out rows; None: the version that
    answered has no calibration. `none_of_these` is the probability of all answers but the choices; None where the
    question has none. `tokens` is empty unless the question asked for `logprobs`.
    """

    id: str
    text: str
    confidence: float
    adapter: Adapter | None
    finish_reason: str
    usage: Usage
    timing: Timing
    choices: tuple[Choice, ...] = ()
    tokens: tuple[Token, ...] = ()
    calibrated: float | None = None
    abstention: Abstention | None = None
    none_of_these: float | None = None
