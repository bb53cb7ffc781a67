"""Answers that are chosen rather than written: what the engine weighs, and the probabilities that come of it."""

import math
from collections.abc import Sequence

from service.errors import InvalidRequest
from service.prompt import Prompt
from service.types import Choice, Question

# Each token of a choice costs the engine a step of its own, all of them at once.
MAX_TOKENS = 256
# Words that are chosen from come to some four characters a token: judged before anything is tokenized.
_MAX_CHARACTERS = 16 * MAX_TOKENS


def encode(prompt: Prompt, question: Question) -> tuple[tuple[int, ...], ...]:
    """The token ids of each choice as an answer to the question, end token included.

    Raises:
        InvalidRequest: two that are one to the model, or more text than is weighed.
    """
    if (characters := sum(map(len, question.choices))) > _MAX_CHARACTERS:
        raise InvalidRequest(f"the choices come to {characters:,} characters, over {_MAX_CHARACTERS:,}: shorten them")
    choices = tuple(prompt.encode_answer(question.text, choice, len(question.images)) for choice in question.choices)
    if len(set(choices)) < len(choices):
        raise InvalidRequest("two of the choices are the same to the model: let them differ")
    if (tokens := sum(map(len, choices))) > MAX_TOKENS:
        raise InvalidRequest(f"the choices come to {tokens} tokens, over {MAX_TOKENS}: shorten them")
    return choices


def weigh(texts: Sequence[str], logprobs: Sequence[float]) -> tuple[Choice, ...]:
    """Each choice's probability, given that it is one of them; they sum to 1."""
    best = max(logprobs)
    weights = [math.exp(logprob - best) for logprob in logprobs]
    total = sum(weights)
    return tuple(Choice(text, weight / total) for text, weight in zip(texts, weights, strict=True))


def none_of(logprobs: Sequence[float]) -> float:
    """The probability of all answers that are none of the choices, given each choice's natural-log probability."""
    return max(0.0, 1.0 - math.fsum(map(math.exp, logprobs)))
