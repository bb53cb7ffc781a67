"""What the service asks of an engine.

`vllm.py` is the real one, `fake.py` serves tests of the HTTP edge; tests/test_engine_contract.py runs on both.
"""

from collections.abc import AsyncGenerator
from typing import Protocol

from service.types import Adapter, Delta, Query, Scores


class Engine(Protocol):
    """Runs queries against one base model and any of its loaded adapters."""

    async def start(self) -> None:
        """Load the base; returns when it can answer."""

    async def stop(self) -> None:
        """Free everything; unfinished queries end in EngineUnavailable."""

    async def load(self, adapter: Adapter) -> None:
        """Make an adapter ready, so that what is wrong with it fails here and never on a request; twice is once.

        Raises:
            AdapterRefused: the engine cannot serve it.
            EngineUnavailable: there is no engine.
        """

    async def unload(self, adapter: Adapter) -> None:
        """Forget an adapter; one that is not loaded is no error."""

    def generate(self, query: Query) -> AsyncGenerator[Delta, None]:
        """Answer one query; closing the generator aborts the engine's work.

        Raises:
            PromptTooLong: prompt and answer exceed the model's context.
            EngineUnavailable: there is no engine, or it died underneath.
        """

    async def score(self, query: Query) -> Scores:
        """How likely each of the query's choices is; sampling plays no part. Cancelling it aborts the engine's work.

        Raises: what `generate` raises.
        """

    async def check(self) -> None:
        """Raise EngineUnavailable where `generate` would."""
