"""One frozen type per hop of a request: Question -> Query -> Delta -> Answer. Data only, no behaviour beyond names.

A Question is what a caller meant, a Query is what the engine runs, Deltas are what it says, an Answer is what we tell.
"""

from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image


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
    """How tokens are drawn; a temperature of 0 is greedy."""

    temperature: float = 0.0
    max_tokens: int = 64


@dataclass(frozen=True, slots=True)
class Upload:
    """An encoded image file as it was sent, and the type its sender claims, if any."""

    data: bytes
    mime: str | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """An image still to be fetched; nothing of its URL has been judged."""

    url: str


@dataclass(frozen=True, slots=True)
class Question:
    """What a caller asks: text, images, the adapter by name (None: the base) and a deadline in seconds.

    Questions with the same `key` get the same version of an adapter while it is shared out between two.
    """

    id: str
    text: str
    images: tuple[Upload | Link, ...] = ()
    adapter: str | None = None
    sampling: Sampling = Sampling()
    deadline_s: float = 30.0
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """What the engine runs: token ids with one placeholder per picture."""

    id: str
    token_ids: tuple[int, ...]
    pictures: tuple[Picture, ...] = ()
    adapter: Adapter | None = None
    sampling: Sampling = Sampling()


@dataclass(frozen=True, slots=True)
class Delta:
    """What the engine adds in one step. `logprob` is the natural-log probability of the whole answer so far.

    `prompt_tokens` counts the prompt as the engine ran it, pictures expanded; `finish_reason` is set on the last delta.
    """

    text: str
    tokens: int
    logprob: float
    prompt_tokens: int
    finish_reason: str | None = None


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
class Answer:
    """What the caller gets. `confidence` is the probability the model gave to exactly this answer, end included."""

    id: str
    text: str
    confidence: float
    adapter: Adapter | None
    finish_reason: str
    usage: Usage
    timing: Timing
