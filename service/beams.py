"""Beam search: the answer that is best as a whole, where the likeliest next token may lead astray. No engine in it.

Ends as Hugging Face's does with its defaults: length penalty 1, so that an answer is as good as its log-probability per
token; early_stopping False, so that it stops when as many answers as beams have ended and none of the living is better
than the worst of them, per token, as far as it has come.
"""

import heapq
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from service.types import Continuations, TokenIds


@dataclass(frozen=True, slots=True)
class Beam:
    """An answer or a beginning of one, its end token included; `logprob` is the whole's natural-log probability."""

    token_ids: TokenIds = ()
    logprob: float = 0.0
    ended: bool = False
    prompt_tokens: int = 0

    @property
    def quality(self) -> float:
        """Log-probability per token."""
        return self.logprob / len(self.token_ids)


async def search(
    extend: Callable[[Sequence[TokenIds], int], Awaitable[Continuations]], beams: int, max_tokens: int, end: int
) -> Beam:
    """The best answer of at most `max_tokens` tokens that a search of this width finds.

    `extend` is an engine's, for one query; of each beam it gives twice as many next tokens as there are beams, so that
    enough go on where others end.

    Raises: what `extend` raises.
    """
    living, done = [Beam()], list[Beam]()
    for length in range(1, max_tokens + 1):
        found = await extend([beam.token_ids for beam in living], 2 * beams)
        grown = heapq.nlargest(2 * beams, _grow(living, found, end), key=lambda beam: beam.logprob)
        last = length == max_tokens
        finished = [beam for beam in grown[:beams] if beam.ended or last]
        done = heapq.nlargest(beams, done + finished, key=lambda beam: beam.quality)
        living = [beam for beam in grown if not beam.ended][:beams]
        if last or not living or (len(done) == beams and living[0].quality <= done[-1].quality):
            break
    return done[0]


def _grow(living: Sequence[Beam], found: Continuations, end: int) -> list[Beam]:
    return [
        Beam((*beam.token_ids, token), beam.logprob + logprob, token == end, found.prompt_tokens)
        for beam, after in zip(living, found.after, strict=True)
        for token, logprob in after.items()
    ]
