"""An engine with no model, for tests of the HTTP edge: the same query always gives the same words, a word a step.

What it says hangs on the prompt, the pictures and the adapter's weights, as with a real engine. Its first word through
an adapter is `sign(weights)`, so that an answer tells whose it is.

Never imported by the service itself.
"""

import asyncio
import hashlib
import heapq
import math
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from service.engine.continuations import branches, totals
from service.engine.least import fitting
from service.errors import AdapterRefused, EngineUnavailable, too_long
from service.members import WEIGHTS, member_of, members
from service.types import Adapter, Continuations, Delta, Query, Scores, Token, TokenIds

WORDS = ("red", "green", "blue", "circle", "square", "seven", "left", "right")
VOCABULARY = 1024


def sign(weights: bytes) -> str:
    """The word that answers through an adapter begin with: a hash of its weights."""
    return hashlib.sha256(weights).hexdigest()[:12]


class FakeEngine:
    """Answers with words drawn by the digest of prompt, pictures and weights; `step_s` seconds between them.

    `loads` counts loads, `most` is the most LoRAs that were loaded at once.
    """

    def __init__(self, max_model_len: int = 1024, step_s: float = 0.0) -> None:
        self.max_model_len = max_model_len
        self.step_s = step_s
        self.running = self.loads = self.most = 0
        self._fault: str | None = "the engine is not running"
        self.heard: Callable[[], None] = lambda: None
        self._going = asyncio.Event()
        self._weights: dict[str, dict[str, str]] = {}

    @property
    def build(self) -> str:
        """The name of the class."""
        return type(self).__qualname__

    async def start(self) -> None:
        """Be able to answer, with no adapter loaded."""
        self._fault = None
        self._going.set()

    async def stop(self) -> None:
        """Fail what is under way and forget every adapter."""
        self._fault = "the engine is not running"
        self._going.set()
        self._weights.clear()

    def kill(self) -> None:
        """Die, as by kill -9: queries under way get neither an answer nor an error, and `check` fails from now on."""
        self._fault = "the engine died"
        self._going.clear()

    def hang(self) -> None:
        """Stand still, as by SIGSTOP: queries wait from now on, and `check` still succeeds."""
        self._going.clear()

    async def load(self, adapter: Adapter) -> None:
        """Read an adapter's weights, in one step; raises AdapterRefused where they cannot be read."""
        await self.check()
        try:
            parts = members(adapter.path)
            signs = {member: sign((folder / WEIGHTS).read_bytes()) for member, folder in parts.items()}
        except OSError as error:
            raise AdapterRefused("engine", f"{adapter.key} does not load: {error}") from error
        await self._step()
        self._weights[adapter.key] = signs
        self.loads, self.most = self.loads + 1, max(self.most, sum(map(len, self._weights.values())))

    async def unload(self, adapter: Adapter) -> None:
        """Forget an adapter; waits while the engine hangs."""
        await self.check()
        await self._going.wait()
        self._weights.pop(adapter.key, None)

    async def generate(self, query: Query) -> AsyncGenerator[Delta, None]:
        """The words that the query's digest draws, one a step; a JSON schema gets the least JSON that fits."""
        await self._judge(query, 1)
        sampling, words = query.sampling, self._words(query)
        if sampling.json_schema is not None:
            words = [fitting(sampling.json_schema)]
        limit, said = min(sampling.max_tokens, self.max_model_len - len(query.token_ids)), ""
        made, kept = list[str](), list[Delta]()
        with self._working():
            for count, word in enumerate(words[:limit], start=1):
                await self._step()
                self._loaded(query)
                piece = word if count == 1 else f" {word}"
                ends = [at for text in sampling.stop if (at := f"{said}{piece}".find(text)) >= 0]
                text = f"{said}{piece}"[len(said) : min(ends)] if ends else piece
                said += piece
                end = "stop" if ends or count == len(words) else "length" if count == limit else None
                told = (_token(piece, sampling.logprobs),) if sampling.logprobs is not None else ()
                made.append(piece)
                kept.append(Delta(text, 1, -0.1 * count, len(query.token_ids), end, told, made.__len__))
                if end or count == 1 or not query.whole:
                    yield _joined(kept)
                    kept.clear()
                if ends:
                    return

    async def score(self, query: Query) -> Scores:
        """The choices' log-probabilities, drawn by the query's digest, in one step."""
        await self._judge(query, max(map(len, query.choices)))
        with self._working():
            await self._step()
            tree = branches(query.choices)
            after = {prefix: {token: self.logprob(query, prefix, token) for token in tree[prefix]} for prefix in tree}
            return Scores(totals(query.choices, after), len(query.token_ids))

    async def extend(self, query: Query, said: Sequence[TokenIds], count: int) -> Continuations:
        """The likeliest next tokens after each beginning, drawn by the query's digest, in one step."""
        await self._judge(query, query.sampling.max_tokens)
        with self._working():
            await self._step()
            return Continuations(tuple(self._likeliest(query, each, count) for each in said), len(query.token_ids))

    async def check(self) -> None:
        """Raise EngineUnavailable where the engine is stopped or was killed."""
        if self._fault is not None:
            raise EngineUnavailable(self._fault)

    def logprob(self, query: Query, said: TokenIds, token: int) -> float:
        """What the tokens of an answer come with; over VOCABULARY tokens these never sum to more than 1."""
        return math.log((1 + self._numbers(query, f"{said}{token}")[0]) / (256 * VOCABULARY))

    @contextmanager
    def _working(self) -> Iterator[None]:
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    async def _step(self) -> None:
        await asyncio.sleep(self.step_s)
        await self._going.wait()
        await self.check()
        self.heard()

    async def _judge(self, query: Query, room: int) -> None:
        await self.check()
        if (left := self.max_model_len - len(query.token_ids)) < room:
            raise too_long(self.max_model_len, left, room)
        self._loaded(query)

    def _loaded(self, query: Query) -> None:
        if query.adapter and query.adapter.key not in self._weights:
            raise EngineUnavailable(f"adapter {query.adapter.key[:48]} is not loaded")

    def _likeliest(self, query: Query, said: TokenIds, count: int) -> dict[int, float]:
        every = ((token, self.logprob(query, said, token)) for token in range(VOCABULARY))
        return dict(heapq.nlargest(count, every, key=lambda each: each[1]))

    def _numbers(self, query: Query, said: str = "") -> bytes:
        seen = f"{query.token_ids}{[picture.digest for picture in query.pictures]}{self._sign(query)}{said}"
        return hashlib.sha256(seen.encode()).digest()

    def _sign(self, query: Query) -> str:
        if query.adapter is None:
            return ""
        signs = self._weights[query.adapter.key]
        return signs.get("") or signs[member_of(len(query.pictures))]

    def _words(self, query: Query) -> list[str]:
        numbers, own = self._numbers(query), self._sign(query)
        return [own] * bool(own) + [WORDS[number % len(WORDS)] for number in numbers[: 2 + numbers[0] % 3]]


def _joined(deltas: Sequence[Delta]) -> Delta:
    """Several steps in one."""
    text, told = "".join(delta.text for delta in deltas), tuple(token for delta in deltas for token in delta.told)
    return replace(deltas[-1], text=text, tokens=len(deltas), told=told)


def _token(text: str, count: int) -> Token:
    """A word and others in its place, all of them words of one step."""
    return Token(text, -0.1, ((text, -0.1), *((other, -3.0) for other in WORDS if other != text.strip()))[:count])
