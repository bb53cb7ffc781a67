"""What the service asks of an engine.

`vllm.py` is the real one, `fake.py` serves tests of the HTTP edge, `supervised.py` is either of them with its deaths
looked after; tests/test_engine_contract.py runs on all three.

An engine may die. Then `check` raises EngineUnavailable, and so does whatever else is asked, until it was stopped and
started again; what was under way fails likewise, or never ends. It may also hang, which `check` does not see.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Protocol

from service.types import Adapter, Continuations, Delta, Query, Scores, TokenIds


class Engine(Protocol):
    """Runs queries against one base model and any of its loaded adapters.

    `heard` is called for every sign of life, also where a query's answer is told as a whole; who supervises the engine
    sets it.
    """

    heard: Callable[[], None]

    @property
    def build(self) -> str:
        """What its answers may hang on beside the query: what was proven under another build is proven again."""

    @property
    def max_model_len(self) -> int | None:
        """The context in tokens, prompt and answer together; None while there is no engine."""

    async def start(self) -> None:
        """Load the base; returns when it can answer, with no adapter loaded. Not called again before `stop`."""

    async def stop(self) -> None:
        """Free everything, dead or alive; unfinished queries end in EngineUnavailable."""

    async def load(self, adapter: Adapter) -> None:
        """Make an adapter ready, so that what is wrong with it fails here and never on a request; twice is once.

        Raises:
            AdapterRefused: the engine cannot serve it.
            EngineUnavailable: there is no engine.
        """

    async def unload(self, adapter: Adapter) -> None:
        """Forget an adapter; one that is not loaded is no error.

        Raises:
            EngineUnavailable: there is no engine.
        """

    def generate(self, query: Query) -> AsyncGenerator[Delta, None]:
        """Answer one query; closing the generator aborts the engine's work.

        Raises:
            PromptTooLong: the prompt leaves no room for an answer.
            FormatRefused: the sampling's JSON schema is none, or says what no answer can be held to.
            EngineUnavailable: there is no engine, or it died underneath.
        """

    async def score(self, query: Query) -> Scores:
        """How likely each of the query's choices is; sampling plays no part. Cancelling it aborts the engine's work.

        Raises: what `generate` raises; PromptTooLong also where the longest choice finds no room.
        """

    async def extend(self, query: Query, said: Sequence[TokenIds], count: int) -> Continuations:
        """The `count` likeliest next tokens after each of `said`, beginnings of an answer; `choices` play no part.

        Raises: what `generate` raises; PromptTooLong also where an answer of `max_tokens` would find no room.
        """

    async def check(self) -> None:
        """Raise EngineUnavailable where `generate` would."""
