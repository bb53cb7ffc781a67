"""Beam search finds what greedy decoding misses, ends as Hugging Face's does, and is exhaustive when wide enough."""

import asyncio
import itertools
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from service.beams import Beam, search
from service.types import Continuations, TokenIds

END = 0
Language = Callable[[TokenIds], dict[int, float]]


def language(seed: int, vocabulary: int) -> Language:
    """Natural-log probabilities of every next token after any beginning; some tokens are far likelier than others."""

    def after(said: TokenIds) -> dict[int, float]:
        dice = random.Random(f"{seed}{said}")
        weights = [math.exp(3 * dice.random()) for _ in range(vocabulary)]
        return {token: math.log(weight / sum(weights)) for token, weight in enumerate(weights)}

    return after


def find(speaks: Language, beams: int, max_tokens: int) -> Beam:
    async def extend(said: Sequence[TokenIds], count: int) -> Continuations:
        likeliest = [sorted(speaks(each).items(), key=lambda pair: -pair[1])[:count] for each in said]
        return Continuations(tuple(map(dict, likeliest)), prompt_tokens=7)

    return asyncio.run(search(extend, beams, max_tokens, END))


def greedy(speaks: Language, max_tokens: int) -> tuple[TokenIds, float]:
    said: TokenIds = ()
    total = 0.0
    while len(said) < max_tokens and END not in said:
        token, logprob = max(speaks(said).items(), key=lambda pair: pair[1])
        said, total = (*said, token), total + logprob
    return said, total


def test_a_likely_first_word_that_leads_astray_is_not_taken() -> None:
    table = {(): {1: 0.6, 2: 0.4}, (1,): {3: 0.4, 4: 0.35, END: 0.25}, (2,): {5: 0.9, END: 0.1}}

    def speaks(said: TokenIds) -> dict[int, float]:
        return {token: math.log(share) for token, share in table.get(said, {END: 1.0}).items()}

    assert greedy(speaks, 8)[0] == (1, 3, END)
    best = find(speaks, 2, 8)
    assert best.token_ids == (2, 5, END)
    assert best.logprob == pytest.approx(math.log(0.4 * 0.9))
    assert best.ended
    assert best.prompt_tokens == 7


@given(st.integers(), st.integers(2, 9), st.integers(1, 8))
def test_one_beam_is_greedy(seed: int, vocabulary: int, max_tokens: int) -> None:
    speaks = language(seed, vocabulary)
    said, total = greedy(speaks, max_tokens)
    best = find(speaks, 1, max_tokens)
    assert best.token_ids == said
    assert best.logprob == pytest.approx(total)
    assert best.ended == (END in said)


@given(st.integers(), st.integers(2, 3), st.integers(1, 4))
def test_beams_enough_for_every_answer_find_the_best_of_all(seed: int, vocabulary: int, max_tokens: int) -> None:
    speaks = language(seed, vocabulary)
    words = range(1, vocabulary)
    whole = [(*said, END) for length in range(max_tokens) for said in itertools.product(words, repeat=length)]
    whole += itertools.product(words, repeat=max_tokens)
    per_token = [sum(speaks(each[:n])[each[n]] for n in range(len(each))) / len(each) for each in whole]
    assert find(speaks, vocabulary**max_tokens, max_tokens).quality == pytest.approx(max(per_token))


class Speaker(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """A language as a model of transformers; prompts are one token long."""

    config_class = PretrainedConfig

    def __init__(self, speaks: Language, vocabulary: int) -> None:
        super().__init__(PretrainedConfig(vocab_size=vocabulary))
        self.speaks, self.vocabulary = speaks, vocabulary
        self.anchor = torch.nn.Parameter(torch.zeros(1))

    def forward(self, input_ids: torch.Tensor, **_: Any) -> CausalLMOutput:
        logits = [list(self.speaks(tuple(row[1:])).values()) for row in input_ids.tolist()]
        return CausalLMOutput(logits=torch.tensor(logits)[:, None])

    def prepare_inputs_for_generation(self, input_ids: torch.Tensor, **_: Any) -> dict[str, torch.Tensor]:
        return {"input_ids": input_ids}


@hypothesis_settings(max_examples=25)
@given(st.integers(), st.integers(2, 4), st.integers(8, 12), st.integers(1, 6))
def test_it_ends_where_hugging_face_s_ends(seed: int, beams: int, vocabulary: int, max_tokens: int) -> None:
    speaks = language(seed, vocabulary)
    options = {"num_beams": beams, "max_new_tokens": max_tokens, "do_sample": False, "use_cache": False}
    reported = {"eos_token_id": END, "pad_token_id": END, "return_dict_in_generate": True, "output_scores": True}
    theirs = Speaker(speaks, vocabulary).generate(torch.tensor([[1]]), **options, **reported)
    ours = find(speaks, beams, max_tokens)
    assert ours.quality == pytest.approx(theirs.sequences_scores.item(), abs=1e-4)
    assert ours.token_ids == tuple(theirs.sequences[0, 1:].tolist())
