"""A token that the tokenizer has no piece for has an empty text, and the engine lives."""

from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer
from vllm.sampling_params import SamplingParams
from vllm.tokenizers import detokenizer_utils
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.logprobs import LogprobsProcessor
from vllm.v1.outputs import LogprobsLists

from service.engine import unnamed_tokens

pytestmark = pytest.mark.engine
TINY = Path(__file__).parent.parent / "models" / "tiny-llava"


def told(token_ids: list[int]) -> dict[int, str | None]:
    """The texts that vLLM gives the likeliest tokens of one step of an answer."""
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    parameters = SamplingParams(logprobs=len(token_ids) - 1)
    request = EngineCoreRequest(
        request_id="one", prompt_token_ids=[1], mm_features=None, sampling_params=parameters, pooling_params=None,
        arrival_time=0.0, lora_request=None, cache_salt=None, data_parallel_rank=None,
    )  # fmt: skip
    step = LogprobsProcessor.from_new_request(tokenizer, request)
    row = np.array([token_ids])
    step._update_sample_logprobs(LogprobsLists(row, np.zeros(row.shape), np.zeros(1, dtype=int), None))
    return {token: each.decoded_token for token, each in step.logprobs[0].items()}


def test_a_token_beyond_the_tokenizer_has_an_empty_text(monkeypatch: pytest.MonkeyPatch) -> None:
    beyond = len(AutoTokenizer.from_pretrained(TINY)) + 10
    monkeypatch.setattr(detokenizer_utils, "_restore_leading_spaces", unnamed_tokens._as_vllm)
    with pytest.raises(TypeError):  # where vLLM does not fail here, unnamed_tokens.py is no longer needed
        told([beyond, 100])
    unnamed_tokens.allow()
    texts = told([beyond, 100])
    assert texts[beyond] == ""
    assert texts[100]
