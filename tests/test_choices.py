"""Probabilities of choices are the model's own, shared out among them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.choices import encode, none_of, weigh
from service.errors import InvalidRequest
from service.prompt import Prompt
from service.types import Question

logprobs = st.lists(st.floats(-2000, 0), min_size=1, max_size=32)


@given(logprobs)
def test_probabilities_sum_to_one_and_keep_their_ratios(given_: list[float]) -> None:
    weighed = [choice.probability for choice in weigh([""] * len(given_), given_)]
    assert math.fsum(weighed) == pytest.approx(1)
    best = max(given_)
    for logprob, probability in zip(given_, weighed, strict=True):
        assert probability / max(weighed) == pytest.approx(math.exp(logprob - best))


@given(st.lists(st.floats(-30, 0), min_size=1, max_size=8))
def test_what_is_on_no_choice_is_what_their_probabilities_leave_of_one(given_: list[float]) -> None:
    total = math.fsum(map(math.exp, given_))
    assert none_of(given_) == pytest.approx(max(0.0, 1 - total))


def test_every_choice_ends_so_that_no_choice_wins_by_being_another_s_beginning(prompt: Prompt) -> None:
    encoded = encode(prompt, Question("id", "which?", choices=("no", "none", "no one")))
    assert all(choice[-1] == prompt.end_token_id for choice in encoded)
    assert not any(one[: len(other)] == other for one in encoded for other in encoded if one != other)


@pytest.mark.parametrize("choices", [("red", " red"), ("a " * 200, "b " * 200)])
def test_choices_the_model_cannot_tell_apart_or_too_much_text_are_refused(
    prompt: Prompt, choices: tuple[str, ...]
) -> None:
    with pytest.raises(InvalidRequest, match="choices"):
        encode(prompt, Question("id", "which?", choices=choices))
