"""Converts our sampling options to vLLM's SamplingParams, and vLLM's outputs to deltas; pure functions."""

from functools import partial
from typing import Any

from service.errors import EngineUnavailable
from service.types import Delta, Sampling, Token, TokenIds

# Tokens between two outputs of an answer that nobody hears as it comes: more than any has. The first is told at once.
_WHOLE = 1 << 30
# What vLLM counts them in as they are made, in the statistics of a request that each of its outputs refers to.
_COUNT = "num_generation_tokens"


def answering(sampling: Sampling, whole: bool, room: int) -> Any:
    """Parameters of vLLM for an answer of at most `room` tokens, told step by step or, after the first, as a whole."""
    from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

    schema = sampling.json_schema
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=sampling.seed,
        stop=list(sampling.stop),
        max_tokens=min(sampling.max_tokens, room),
        logprobs=sampling.logprobs or 0,
        structured_outputs=StructuredOutputsParams(json=schema) if schema else None,
        output_kind=RequestOutputKind.DELTA,
        stream_interval=_WHOLE if whole else None,
    )


def weighing(**asked: Any) -> Any:
    """Parameters of vLLM for one token, and the log-probabilities that `asked` names in vLLM's words."""
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    return SamplingParams(
        temperature=0.0, max_tokens=1, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY, **asked
    )


def delta(output: Any, sampling: Sampling) -> Delta:
    """What one output of vLLM's adds to the answer.

    Raises:
        EngineUnavailable: the engine gave up.
    """
    completion = _completion(output)
    return Delta(
        text=completion.text,
        tokens=len(completion.token_ids),
        logprob=completion.cumulative_logprob or 0.0,
        prompt_tokens=len(output.prompt_token_ids or ()),
        finish_reason=completion.finish_reason,
        told=() if sampling.logprobs is None else _tokens(completion, sampling.logprobs),
        made=None if output.finished or output.metrics is None else partial(getattr, output.metrics, _COUNT),
    )


def weights(output: Any, token_ids: TokenIds | None = None) -> dict[int, float]:
    """The log-probabilities of the next token that an output of one token tells of, or of these token ids alone."""
    (step,) = _completion(output).logprobs
    return {token: step[token].logprob for token in (step if token_ids is None else token_ids)}


def missed_pictures(output: Any) -> bool:
    """Whether the engine process has lost a picture that vLLM's front end took to be there, and asks for it again.

    vLLM says so with finish reason "error" and no token, and forgets the picture in front; the same request, rendered
    again, brings it.
    """
    (completion,) = output.outputs
    return completion.finish_reason == "error" and not completion.token_ids


def _completion(output: Any) -> Any:
    (completion,) = output.outputs
    if completion.finish_reason in ("abort", "error"):
        raise EngineUnavailable("the engine gave up on this request")
    return completion


def _tokens(completion: Any, count: int) -> tuple[Token, ...]:
    steps = list(zip(completion.token_ids, completion.logprobs or (), strict=False))
    ended = completion.finish_reason == "stop" and completion.stop_reason is None
    return tuple(_token(token, step, count) for token, step in (steps[:-1] if ended else steps))


def _token(token: int, step: Any, count: int) -> Token:
    likeliest = sorted(step.values(), key=lambda each: each.rank)[:count]
    told = tuple((each.decoded_token or "", each.logprob) for each in likeliest)
    return Token(step[token].decoded_token or "", step[token].logprob, told)
