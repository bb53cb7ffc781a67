"""An engine with no model, for tests of the HTTP edge: the same query always gives the same words, a word a step.

What it says hangs on the prompt, the pictures and the adapter's weights, as with a real engine. Its first word through
an adapter is `sign(weights)`, so that an answer tells whose it is.

Never imported by the service itself.
"""

import asyncio
import hashlib
import math
from collections.abc import AsyncGenerator

from service.engine.continuations import branches, totals
from service.errors import AdapterRefused, EngineUnavailable, PromptTooLong
from service.types import Adapter, Delta, Query, Scores

WORDS = ("red", "green", "blue", "circle", "square", "seven", "left", "right")
VOCABULARY = 1024


def sign(weights: bytes) -> str:
    """The word by which an adapter is known."""
    return hashlib.sha256(weights).hexdigest()[:12]


class FakeEngine:
    """Answers with words drawn by the digest of prompt, pictures and weights; `step_s` seconds between them.

    `loads` counts loads, `most` is the most adapters that were loaded at once.
    """

    def __init__(self, max_model_len: int = 1024, step_s: float = 0.0) -> None:
        self.max_model_len = max_model_len
        self.step_s = step_s
        self.running = self.loads = self.most = 0
        self._started = False
        self._weights: dict[str, str] = {}

    async def start(self) -> None:
        """See Engine."""
        self._started = True

    async def stop(self) -> None:
        """See Engine."""
        self._started = False

    async def load(self, adapter: Adapter) -> None:
        """See Engine."""
        await self.check()
        try:
            weights = (adapter.path / "adapter_model.safetensors").read_bytes()
        except OSError as error:
            raise AdapterRefused("engine", f"{adapter.key} does not load: {error}") from error
        await asyncio.sleep(self.step_s)
        self._weights[adapter.key] = sign(weights)
        self.loads, self.most = self.loads + 1, max(self.most, len(self._weights))

    async def unload(self, adapter: Adapter) -> None:
        """See Engine."""
        self._weights.pop(adapter.key, None)

    async def generate(self, query: Query) -> AsyncGenerator[Delta, None]:
        """See Engine."""
        limit = query.sampling.max_tokens
        await self._judge(query, limit)
        words = self._words(query)
        self.running += 1
        try:
            for count, word in enumerate(words[:limit], start=1):
                await asyncio.sleep(self.step_s)
                await self.check()
                self._loaded(query)
                end = "stop" if count == len(words) else "length" if count == limit else None
                yield Delta(word if count == 1 else f" {word}", 1, -0.1 * count, len(query.token_ids), end)
        finally:
            self.running -= 1

    async def score(self, query: Query) -> Scores:
        """See Engine."""
        await self._judge(query, max(map(len, query.choices)))
        self.running += 1
        try:
            await asyncio.sleep(self.step_s)
            tree = branches(query.choices)
            after = {prefix: {token: self._logprob(query, prefix, token) for token in tree[prefix]} for prefix in tree}
            return Scores(totals(query.choices, after), len(query.token_ids))
        finally:
            self.running -= 1

    async def check(self) -> None:
        """See Engine."""
        if not self._started:
            raise EngineUnavailable("the engine is not running")

    async def _judge(self, query: Query, room: int) -> None:
        await self.check()
        if len(query.token_ids) + room > self.max_model_len:
            raise PromptTooLong(f"{len(query.token_ids)} tokens and an answer of {room} exceed {self.max_model_len}")
        self._loaded(query)

    def _loaded(self, query: Query) -> None:
        if query.adapter and query.adapter.key not in self._weights:
            raise EngineUnavailable(f"adapter {query.adapter.key[:48]} is not loaded")

    def _logprob(self, query: Query, prefix: tuple[int, ...], token: int) -> float:
        # Over VOCABULARY tokens these never sum to more than 1, as probabilities must not.
        return math.log((1 + self._numbers(query, f"{prefix}{token}")[0]) / (256 * VOCABULARY))

    def _numbers(self, query: Query, said: str = "") -> bytes:
        seen = f"{query.token_ids}{[picture.digest for picture in query.pictures]}{self._sign(query)}{said}"
        return hashlib.sha256(seen.encode()).digest()

    def _sign(self, query: Query) -> str:
        return self._weights[query.adapter.key] if query.adapter else ""

    def _words(self, query: Query) -> list[str]:
        numbers, own = self._numbers(query), self._sign(query)
        return [own] * bool(own) + [WORDS[number % len(WORDS)] for number in numbers[: 2 + numbers[0] % 3]]
