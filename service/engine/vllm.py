"""The real engine: vLLM's AsyncLLM in process. Its errors become ours here."""

import asyncio
import gc
import itertools
import logging
import os
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from service.engine.continuations import branches, totals
from service.engine.sizing import Sizes
from service.errors import AdapterRefused, EngineUnavailable, InvalidRequest, PromptTooLong
from service.settings import Settings
from service.types import Adapter, Continuations, Delta, Query, Scores, TokenIds

log = logging.getLogger(__name__)


class VLLMEngine:
    """One base model under vLLM, with multi-LoRA, the paged KV cache, and image caches keyed by our digests."""

    def __init__(self, checkpoint: Path, settings: Settings, sizes: Sizes | None = None) -> None:
        """Without `sizes`, they follow from the memory there is now."""
        self._checkpoint, self._settings = checkpoint, settings
        self._sizes = sizes or Sizes.of(checkpoint, settings)
        self._engine: Any = None
        self._ids, self._numbers = itertools.count(1), itertools.count(1)
        self._lora: dict[str, Any] = {}

    async def start(self) -> None:
        """See Engine. Importing and loading block for a minute or so, hence the thread."""
        self._engine = await asyncio.to_thread(self._build)
        _spare_the_collector()
        log.info("vLLM serves %s", self._checkpoint)

    async def stop(self) -> None:
        """See Engine."""
        engine, self._engine = self._engine, None
        self._lora.clear()
        gc.unfreeze()
        if engine is not None:
            await asyncio.to_thread(engine.shutdown)

    async def load(self, adapter: Adapter) -> None:
        """See Engine."""
        from vllm.lora.request import LoRARequest

        engine = self._running()
        if adapter.key in self._lora:  # vLLM tells adapters apart by name: one id for each
            return
        request = LoRARequest(adapter.key, next(self._ids), str(adapter.path.resolve()))
        try:
            await engine.add_lora(request)
        except Exception as error:  # vLLM lets whatever its loader hit come through the engine process
            self._running()
            raise AdapterRefused("engine", f"vLLM does not load {adapter.key[:48]}: {error}") from error
        self._lora[adapter.key] = request

    async def unload(self, adapter: Adapter) -> None:
        """See Engine."""
        engine, request = self._running(), self._lora.pop(adapter.key, None)
        if request is not None:
            with _our_errors():
                await engine.remove_lora(request.lora_int_id)

    async def generate(self, query: Query) -> AsyncGenerator[Delta, None]:
        """See Engine."""
        engine, lora = self._running(), self._adapter(query)
        with _our_errors():
            prompt = await self._render(engine, query, query.sampling.max_tokens)
            async with aclosing(engine.generate(prompt, _sampling(query), query.id, lora_request=lora)) as outputs:
                async for output in outputs:
                    yield _delta(output)

    async def score(self, query: Query) -> Scores:
        """See Engine. Each prefix of the choices asks for its next tokens' probabilities: exact, and the cache shares.

        A prompt with its logprobs asked for would skip the prefix cache and be run once for every choice.
        """
        tree, longest = branches(query.choices), max(map(len, query.choices))
        # The empty prefix first: what it computes is in the cache when the others come.
        first, *others = tree
        root = await self._weigh(query, first, longest, logprob_token_ids=list(tree[first]))
        weighing = (self._weigh(query, each, longest, logprob_token_ids=list(tree[each])) for each in others)
        outputs = [root, *await asyncio.gather(*weighing)]
        found = {prefix: _weights(output, tree[prefix]) for prefix, output in zip(tree, outputs, strict=True)}
        return Scores(totals(query.choices, found), len(root.prompt_token_ids))

    async def extend(self, query: Query, said: Sequence[TokenIds], count: int) -> Continuations:
        """See Engine. The cache knows all but the last token of each beginning, and the pictures."""
        longest = query.sampling.max_tokens
        outputs = await asyncio.gather(*(self._weigh(query, each, longest, logprobs=count) for each in said))
        after = tuple(_weights(output) for output in outputs)
        return Continuations(after, len(outputs[0].prompt_token_ids) - len(said[0]))

    async def check(self) -> None:
        """See Engine."""
        self._running()

    async def _weigh(self, query: Query, said: TokenIds, longest: int, **asked: Any) -> Any:
        """The engine's output of one token after `said`, with the log-probabilities that `asked` names."""
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        engine, lora, id_ = self._running(), self._adapter(query), f"{query.id}-{next(self._numbers)}"
        sampling = SamplingParams(
            temperature=0.0, max_tokens=1, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY, **asked
        )
        with _our_errors():
            # Rendered each by itself: vLLM's two image caches count on seeing the same requests.
            longer = replace(query, token_ids=query.token_ids + said)
            prompt = await self._render(engine, longer, longest - len(said))
            async with aclosing(engine.generate(prompt, sampling, id_, lora_request=lora)) as outputs:
                return [output async for output in outputs][-1]

    def _running(self) -> Any:
        if self._engine is None or self._engine.errored:
            raise EngineUnavailable("the engine is not running" if self._engine is None else "the engine died")
        return self._engine

    def _adapter(self, query: Query) -> Any:
        if query.adapter is not None and query.adapter.key not in self._lora:
            raise EngineUnavailable(f"adapter {query.adapter.key[:48]} is not loaded")
        return self._lora[query.adapter.key] if query.adapter else None

    async def _render(self, engine: Any, query: Query, room: int) -> Any:
        """Expand each picture's placeholder, run the image processor, and check that `room` tokens are left, once."""
        from vllm.renderers.inputs.preprocess import parse_model_prompt

        prompt: dict[str, Any] = {"prompt_token_ids": list(query.token_ids)}
        if query.pictures:
            prompt["multi_modal_data"] = {"image": [picture.image for picture in query.pictures]}
            prompt["multi_modal_uuids"] = {"image": [query.scope + picture.digest for picture in query.pictures]}
        if query.scope:
            prompt["cache_salt"] = query.scope
        limit = engine.model_config.max_model_len
        if len(query.token_ids) > limit:
            raise PromptTooLong(f"the question is {len(query.token_ids)} tokens, the context {limit}: shorten it")
        (rendered,) = await engine.renderer.render_cmpl_async([parse_model_prompt(engine.model_config, prompt)])
        needed = len(rendered["prompt_token_ids"]) + room
        if needed > limit:
            raise PromptTooLong(
                f"question, pictures and answer come to {needed} tokens, the context is {limit}: ask for less"
            )
        return rendered

    def _build(self) -> Any:
        settings = self._settings
        # Read by vLLM at import, so set before it. W4A8 would round activations to 8 bits: not what W4A16 promises.
        os.environ.setdefault("VLLM_CPU_INT4_W4A8", "0")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "INFO" if settings.log_level == "debug" else "ERROR")
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments: dict[str, Any] = {
            "model": str(self._checkpoint),
            "dtype": "auto",
            "enable_lora": True,
            "max_lora_rank": settings.max_lora_rank,
            "max_num_seqs": settings.max_num_seqs,
            "enable_log_requests": False,
            **self._sizes.engine_arguments(),
        }
        return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments | settings.engine_args))


def _spare_the_collector() -> None:
    """Keep what has just been imported and built, some 800,000 objects, out of every garbage collection to come.

    A full one would hold the event loop for half a second, every minute or so. vLLM's engine process does the same.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


@contextmanager
def _our_errors() -> Iterator[None]:
    from vllm.exceptions import VLLMClientError, VLLMError

    try:
        yield
    except VLLMClientError as error:
        raise InvalidRequest(str(error)) from error
    except VLLMError as error:
        raise EngineUnavailable(f"the engine failed: {error}") from error


def _sampling(query: Query) -> Any:
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    return SamplingParams(
        temperature=query.sampling.temperature,
        max_tokens=query.sampling.max_tokens,
        logprobs=0,
        output_kind=RequestOutputKind.DELTA,
    )


def _weights(output: Any, token_ids: TokenIds | None = None) -> dict[int, float]:
    (step,) = _completion(output).logprobs
    return {token: step[token].logprob for token in (step if token_ids is None else token_ids)}


def _completion(output: Any) -> Any:
    (completion,) = output.outputs
    if completion.finish_reason in ("abort", "error"):
        raise EngineUnavailable("the engine gave up on this request")
    return completion


def _delta(output: Any) -> Delta:
    completion = _completion(output)
    return Delta(
        text=completion.text,
        tokens=len(completion.token_ids),
        logprob=completion.cumulative_logprob or 0.0,
        prompt_tokens=len(output.prompt_token_ids or ()),
        finish_reason=completion.finish_reason,
    )
