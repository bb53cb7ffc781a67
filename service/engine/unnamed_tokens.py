"""Tokens that a model has and its tokenizer has not: LLaVA-1.5 has 32,064 rows of embeddings for 32,002 tokens.

The rows beyond are never trained, yet a token of theirs is drawn now and then at a high temperature, or is among the
likeliest that a caller asks for. vLLM 0.32 looks up the tokenizer's piece of each token whose log-probability is asked
for, finds None, and fails in the task that reads the engine's answers: that is the end of the engine for everybody
(vllm-project/vllm#56100). Such a token's text is empty, as it is in an answer.
"""

from functools import wraps

from vllm.tokenizers import detokenizer_utils

_as_vllm = detokenizer_utils._restore_leading_spaces


def allow() -> None:
    """Let vLLM tell of tokens that its tokenizer has no piece for."""
    detokenizer_utils._restore_leading_spaces = _with_spaces


@wraps(_as_vllm)
def _with_spaces(raw_token: str | None, token_str: str, marker: str) -> str:
    """The text of a token with the blanks before it, by its piece; None is no piece."""
    return str(_as_vllm(raw_token or "", token_str, marker))
