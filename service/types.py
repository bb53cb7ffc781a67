"""One frozen type per hop of a request: Question -> Query -> Delta -> Answer. Data only, no behaviour beyond names.

A Question is what a caller meant, a Query is what the engine runs, Deltas are what it says, an Answer is what we tell.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from PIL import Image

TokenIds = tuple[int, ...]

# By what a version of an adapter came to answer: the alias `stable`, another alias, or its own digest.
Release = Literal["stable", "canary", "pinned"]


@dataclass(frozen=True, slots=True)
class Adapter:
    """One immutable adapter version whose files lie in a local directory."""

    name: str
    version: str
    path: Path = field(compare=False)

    @property
    def key(self) -> str:
        """The name the engine knows it by; new weights always mean a new key, since engines cache by name."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class Picture:
    """The RGB image the model sees, of shape (size, size, 3), and the digest the engine's caches know it by."""

    image: Image.Image
    digest: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn; a temperature of 0 is greedy.

    `max_tokens` is a ceiling: an answer has at most what the prompt leaves of the context. `top_p` is the share of
    probability that tokens are drawn from, over 0; with a `seed` the same draws are made again. The answer ends before
    the first of the texts in `stop`. `json_schema` is a JSON schema, as JSON text, that the answer fits if it is
    complete. `logprobs` asks for the tokens of the answer, each with as many of the likeliest in its place.
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
    """Who asks, and what it may: see service/auth.py, whose file of keys says so. The default is anyone, and may all.

    `adapters` are names or shell patterns, `rate` is as in "10/second", `concurrency` counts requests here at once,
    `priority` is the highest it may ask for.
    """

    name: str = ""
    admin: bool = True
    adapters: tuple[str, ...] = ("*",)
    rate: str | None = None
    concurrency: int | None = None
    priority: int = 9

    def sees(self, reference: str) -> bool:
        """Whether it may know of what goes by that name, or by NAME@ALIAS or NAME@VERSION."""
        return any(fnmatchcase(reference.partition("@")[0], pattern) for pattern in self.adapters)


ANYONE = Tenant()


@dataclass(frozen=True, slots=True)
class Upload:
    """An encoded image file as it was sent; what type its sender calls it does not matter, its bytes say."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Link:
    """An image still to be fetched; nothing of its URL has been judged."""

    url: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation, with the number of images shown in it."""

    role: Literal["system", "user", "assistant"]
    text: str
    pictures: int = 0


@dataclass(frozen=True, slots=True)
class Question:
    """What a caller asks: text, images, the adapter by name (None: the base) and a deadline in seconds.

    `history` is what was said before; the first of `images` are its turns', the rest the question's own. A higher
    `priority` goes earlier, as far as `tenant` may. Questions with the same `key` get the same version of an adapter
    while it is shared out between two. With several `beams` the answer is searched for (service/beams.py). One that is
    `patient` waits for its tenant's own requests to end, where others are refused beyond the tenant's concurrency.
    `abstain_below` is the calibrated confidence under which the answer is marked as one not to act on.
    """

    id: str
    text: str
    images: tuple[Upload | Link, ...] = ()
    adapter: str | None = None
    sampling: Sampling = Sampling()
    deadline_s: float = 30.0
    choices: tuple[str, ...] = ()
    history: tuple[Turn, ...] = ()
    tenant: Tenant = ANYONE
    priority: int = 0
    key: str | None = None
    beams: int = 1
    patient: bool = False
    abstain_below: float | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """What the engine runs: token ids with one placeholder per picture.

    `choices` are the answers it may give, as token ids that end in the end token; none: whatever it likes.
    Queries of one `scope` may share what the engine remembers of their words and pictures, others not: how long an
    answer takes would tell one tenant what another asked.
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
    """The natural-log probability of each of a query's choices, whole, and the prompt's tokens, pictures expanded."""

    logprobs: tuple[float, ...]
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Continuations:
    """The likeliest next tokens after each beginning of an answer, and their natural-log probabilities."""

    after: tuple[Mapping[int, float], ...]
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an answer: its text, its natural-log probability, and the likeliest in its place, likeliest first.

    Probabilities are the model's own, before temperature, `top_p` or a schema change them.
    """

    text: str
    logprob: float
    likeliest: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """What the engine adds in one step. `logprob` is the natural-log probability of the whole answer so far.

    `prompt_tokens` counts the prompt as the engine ran it, pictures expanded; `finish_reason` is set on the last delta.
    `told` are the step's tokens where the query asks for `logprobs`, without the end token. `made` counts the tokens of
    the answer so far whenever it is called, those kept for a later delta too; None: none are kept.
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
    """Seconds since the request was accepted, by stage; `first_token_s` and `total_s` are counted from its start."""

    image_s: float
    queue_s: float
    first_token_s: float
    total_s: float


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer that could be chosen; the probabilities of all sum to 1."""

    text: str
    probability: float


@dataclass(frozen=True, slots=True)
class Abstention:
    """Whether an answer is below the threshold that was asked for, and what that threshold did on held-out rows.

    Of those rows the share `coverage` was at or above it, and of these `risk` was wrong; both None: no row was.
    """

    abstained: bool
    risk: float | None
    coverage: float | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the caller gets. `confidence` is the probability the model gave to exactly this answer, end included.

    `calibrated` is the share of answers with such a confidence that was right on held-out rows; None: the version that
    answered has no calibration. `none_of_these` is the probability of all answers that are none of the choices, where
    there are some. `tokens` are there where the question asked for `logprobs`.
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
