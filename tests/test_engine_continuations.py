"""The tree of prefixes weighs each next token once and gives every continuation what a walk along it would."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.continuations import branches, totals
from service.types import TokenIds

tokens = st.integers(0, 4)
continuations = st.lists(st.lists(tokens, min_size=1, max_size=5).map(tuple), min_size=1, max_size=8)


@given(continuations)
def test_every_step_of_every_continuation_is_weighed_once(given_: list[TokenIds]) -> None:
    tree = branches(given_)
    assert next(iter(tree)) == ()
    weighed = {(*prefix, token) for prefix, tokens in tree.items() for token in tokens}
    assert weighed == {each[: end + 1] for each in given_ for end in range(len(each))}
    assert sum(map(len, tree.values())) == len(weighed)


@given(continuations)
def test_a_total_is_the_sum_along_its_path(given_: list[TokenIds]) -> None:
    def step(prefix: TokenIds, token: int) -> float:
        return -1.0 - len(prefix) - token / 8

    after = {prefix: {token: step(prefix, token) for token in tokens} for prefix, tokens in branches(given_).items()}
    walked = [math.fsum(step(each[:end], token) for end, token in enumerate(each)) for each in given_]
    assert totals(given_, after) == pytest.approx(walked)
