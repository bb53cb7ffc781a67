"""Which next tokens must be weighed, and after which, to know how likely whole continuations are; pure, no engine."""

from collections.abc import Mapping, Sequence

from service.types import TokenIds


def branches(continuations: Sequence[TokenIds]) -> dict[TokenIds, tuple[int, ...]]:
    """Every proper prefix of the continuations, the empty one first, with the tokens that follow it in any of them."""
    found: dict[TokenIds, dict[int, None]] = {}
    for continuation in continuations:
        for length, token in enumerate(continuation):
            found.setdefault(continuation[:length], {})[token] = None
    return {prefix: tuple(tokens) for prefix, tokens in found.items()}


def totals(continuations: Sequence[TokenIds], after: Mapping[TokenIds, Mapping[int, float]]) -> tuple[float, ...]:
    """The log-probability of each continuation, given those of each next token after each prefix."""
    return tuple(sum(after[each[:length]][token] for length, token in enumerate(each)) for each in continuations)
