"""The real engine: vLLM's AsyncLLM in process. Its errors become ours here."""

import asyncio
import gc
import itertools
import logging
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from service import environment
from service.engine import forking, sampling
from service.engine.continuations import branches, totals
from service.engine.grammars import CONFIG, Grammars
from service.engine.output import how_it_ended
from service.engine.sides import Sides
from service.engine.sizing import Sizes
from service.errors import AdapterRefused, EngineUnavailable, InvalidRequest, too_long
from service.members import member_of, members
from service.settings import Settings
from service.types import Adapter, Continuations, Delta, Query, Scores, TokenIds

log = logging.getLogger(__name__)

# What adapters change, by the last parts of the names that service/adapters/modules.py lets through. Left alone, vLLM
# multiplies for embeddings and logits too.
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# The model in the process of vLLM's core. vLLM's short name for it, "uni", is not taken on a CPU.
_IN_CORE = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
# What must not share a step of the engine: vLLM's V1 sampler gives every row of a batch the tokens that it was asked
# for by name as soon as one row names some (`logprob_token_ids`), and the rows that want the likeliest get others.
_NAMED, _RANKED = "named", "ranked"


class VLLMEngine:
    """One base model under vLLM, with multi-LoRA, the paged KV cache, and image caches keyed by our digests."""

    def __init__(self, checkpoint: Path, settings: Settings, sizes: Sizes | None = None) -> None:
        """Without `sizes`, they follow from the memory there is now."""
        self._checkpoint, self._settings = checkpoint, settings
        self._sizes = sizes or Sizes.of(checkpoint, settings)
        self._engine: Any = None
        self.heard: Callable[[], None] = lambda: None
        self._building: asyncio.Task[None] | None = None
        # What vLLM failed with in this process, and whether the log has been told why it died.
        self._failure: Exception | None = None
        self._death_told = False
        self._ids, self._numbers = itertools.count(1), itertools.count(1)
        # By adapter what vLLM knows of its members, a plain adapter's by "".
        self._lora: dict[str, dict[str, Any]] = {}
        self._sides, self._grammars = Sides(), Grammars(checkpoint)
        # One question with choices asks the engine up to 256 times: all of them together have a quarter of the places,
        # so that others' answers come between theirs.
        self._weighings = asyncio.Semaphore(max(1, settings.in_flight // 4))

    @property
    def build(self) -> str:
        """Versions of vLLM and torch, the device, and the engine options: a verdict holds for all four alike."""
        import torch
        import vllm
        from vllm.platforms import current_platform

        device = current_platform.get_device_name()
        return f"vllm {vllm.__version__}, torch {torch.__version__}, {device}, {self._settings.engine_args}"

    async def start(self) -> None:
        """Import vLLM and load the base, which takes half a minute or so, on a thread.

        Raises:
            EngineUnavailable: vLLM does not start; the message has the first error of its processes.
        """
        self._building = asyncio.create_task(asyncio.to_thread(self._build))
        try:
            await asyncio.shield(self._building)
        except Exception as error:
            if (cause := forking.cause()) is None:
                raise
            raise EngineUnavailable(f"vLLM does not start: {cause}") from error
        _spare_the_collector()
        log.info("vLLM serves %s", self._checkpoint)

    async def stop(self) -> None:
        """Shut vLLM down; a start that is still going on has its processes killed."""
        if self._building is not None:
            await self._end_building(self._building)
        engine, self._engine, self._building = self._engine, None, None
        self._lora.clear()
        gc.unfreeze()
        if engine is not None:
            await asyncio.to_thread(engine.shutdown)
            # vLLM's object is part of a cycle, and its destructor fails where only the end of Python ends it.
            del engine
            await asyncio.to_thread(gc.collect)

    @staticmethod
    async def _end_building(building: "asyncio.Task[None]") -> None:
        """Wait until a start has ended, whose processes are killed meanwhile.

        The thread cannot be stopped: it ends when it finds them dead.
        """
        while not building.done():
            await asyncio.to_thread(forking.kill_engines)
            await asyncio.wait({building}, timeout=0.2)
        building.exception()  # told to who started it

    async def load(self, adapter: Adapter) -> None:
        """Load an adapter, of a mixture every member, under an id that is never used again."""
        from vllm.lora.request import LoRARequest

        engine = self._running()
        if adapter.key in self._lora:  # vLLM tells adapters apart by name: one id for each
            return
        folders = await asyncio.to_thread(members, adapter.path)
        loaded = self._lora[adapter.key] = {}  # known as it grows: what is cut short is unloaded
        try:
            for member, folder in folders.items():
                name = f"{adapter.key}/{member}" if member else adapter.key
                request = LoRARequest(name, next(self._ids), str(folder.resolve()))
                await engine.add_lora(request)
                loaded[member] = request
        except Exception as error:  # vLLM lets whatever its loader hit come through the engine process
            forking.cause()  # what vLLM's processes said of it is not why they die, if they do later
            with suppress(EngineUnavailable):
                await self.unload(adapter)
            self._running()
            raise AdapterRefused("engine", f"vLLM does not load {adapter.key[:48]}: {error}") from error

    async def unload(self, adapter: Adapter) -> None:
        """Take an adapter and all its members out of vLLM; one that is not loaded is left alone."""
        engine = self._running()
        for request in self._lora.pop(adapter.key, {}).values():
            with self._our_errors():
                await engine.remove_lora(request.lora_int_id)

    async def generate(self, query: Query) -> AsyncGenerator[Delta, None]:
        """Answer a query, a delta for each step of vLLM, or two in all where the query is wanted as a whole."""
        lora, wanted = self._adapter(query), query.sampling
        if wanted.json_schema is not None:
            await self._grammars.check(wanted.json_schema, self._running().model_config.get_vocab_size())
        side = self._sides.on(_RANKED) if wanted.logprobs else nullcontext()
        # Without its statistics vLLM tells neither of its steps nor how many tokens there are.
        make = partial(sampling.answering, wanted, query.whole and self._running().log_stats)
        async with side, aclosing(self._run(query, 1, make, query.id, lora)) as outputs:
            async for output in outputs:
                yield sampling.delta(output, wanted)

    async def score(self, query: Query) -> Scores:
        """The log-probability of each choice, exact: one request a prefix of the choices, which share vLLM's cache.

        A prompt with its logprobs asked for would skip the prefix cache and be run once for every choice.
        """
        tree, longest = branches(query.choices), max(map(len, query.choices))
        # The empty prefix first: what it computes is in the cache when the others come.
        first, *others = tree
        async with self._sides.on(_NAMED):
            root = await self._weigh(query, first, longest, logprob_token_ids=list(tree[first]))
            weighing = (self._weigh(query, each, longest, logprob_token_ids=list(tree[each])) for each in others)
            outputs = [root, *await asyncio.gather(*weighing)]
        found = {prefix: sampling.weights(output, tree[prefix]) for prefix, output in zip(tree, outputs, strict=True)}
        return Scores(totals(query.choices, found), len(root.prompt_token_ids))

    async def extend(self, query: Query, said: Sequence[TokenIds], count: int) -> Continuations:
        """The likeliest next tokens after each beginning; the cache has all but the last token of each."""
        longest = query.sampling.max_tokens
        async with self._sides.on(_RANKED):
            outputs = await asyncio.gather(*(self._weigh(query, each, longest, logprobs=count) for each in said))
        after = tuple(sampling.weights(output) for output in outputs)
        return Continuations(after, len(outputs[0].prompt_token_ids) - len(said[0]))

    @property
    def max_model_len(self) -> int | None:
        """The context in tokens, prompt and answer together; None while vLLM does not run."""
        return None if self._engine is None else int(self._engine.model_config.max_model_len)

    async def check(self) -> None:
        """Raise EngineUnavailable where vLLM does not run or has said that it is dead; the log is told why, once."""
        if self._engine is not None and self._engine.errored and not self._death_told:
            self._death_told = True
            log.error("vLLM died: %s", _why(self._engine, self._failure))
        self._running()

    async def _weigh(self, query: Query, said: TokenIds, longest: int, **asked: Any) -> Any:
        """The engine's output of one token after `said`, with the log-probabilities that `asked` names."""
        lora, id_ = self._adapter(query), f"{query.id}-{next(self._numbers)}"
        # Rendered each by itself: vLLM's two image caches count on seeing the same requests.
        longer = replace(query, token_ids=query.token_ids + said)
        weighing = self._run(longer, longest - len(said), lambda _: sampling.weighing(**asked), id_, lora)
        async with self._weighings, aclosing(weighing) as outputs:
            return [output async for output in outputs][-1]

    async def _run(
        self, query: Query, least: int, make: Callable[[int], Any], id_: str, lora: Any
    ) -> AsyncGenerator[Any, None]:
        """What vLLM puts out for a query that needs a room of `least` tokens; `make` gives parameters for the room.

        Pictures that the engine process has lost are sent once more.
        """
        engine = self._running()
        with self._our_errors():
            for id_of_try in (id_, f"{id_}-again"):
                prompt, room = await self._render(engine, query, least)
                running = engine.generate(prompt, make(room), id_of_try, lora_request=lora)
                async with aclosing(running) as outputs:
                    async for output in outputs:
                        if query.pictures and id_of_try == id_ and sampling.missed_pictures(output):
                            break
                        yield output
                    else:
                        return

    @contextmanager
    def _our_errors(self) -> Iterator[None]:
        """Raise InvalidRequest or EngineUnavailable for vLLM's errors."""
        from vllm.exceptions import VLLMClientError, VLLMError
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            yield
        except VLLMClientError as error:
            raise InvalidRequest(str(error)) from error
        except VLLMError as error:
            # What ends vLLM's task that reads answers comes to everybody who waits for one, as the cause of an error
            # without words. Of another process's end EngineDeadError alone comes, which says nothing.
            if self._engine is not None and self._engine.errored and not isinstance(error, EngineDeadError):
                self._failure = error
            raise EngineUnavailable(f"the engine failed: {error}") from error

    def _running(self) -> Any:
        if self._engine is None or self._engine.errored:
            raise EngineUnavailable("the engine is not running" if self._engine is None else "the engine died")
        return self._engine

    def _adapter(self, query: Query) -> Any:
        if query.adapter is not None and query.adapter.key not in self._lora:
            raise EngineUnavailable(f"adapter {query.adapter.key[:48]} is not loaded")
        if query.adapter is None:
            return None
        loaded = self._lora[query.adapter.key]
        return loaded.get("") or loaded[member_of(len(query.pictures))]

    async def _render(self, engine: Any, query: Query, least: int) -> tuple[Any, int]:
        """The prompt with its pictures expanded and processed, and how many tokens are left, which is at least `least`.

        They are counted before: what is rendered must be run, or vLLM takes its pictures for known to the engine.
        """
        from vllm.renderers.inputs.preprocess import parse_model_prompt

        prompt: dict[str, Any] = {"prompt_token_ids": list(query.token_ids)}
        if query.pictures:
            prompt["multi_modal_data"] = {"image": [picture.image for picture in query.pictures]}
            prompt["multi_modal_uuids"] = {"image": [query.scope + picture.digest for picture in query.pictures]}
        if query.scope:
            prompt["cache_salt"] = query.scope
        room = engine.model_config.max_model_len - len(query.token_ids) - _image_tokens(engine, query)
        if room < least:
            raise too_long(engine.model_config.max_model_len, room, least)
        (rendered,) = await engine.renderer.render_cmpl_async([parse_model_prompt(engine.model_config, prompt)])
        return rendered, room

    def _build(self) -> None:
        """Make the engine; it is no result of this, which the thread that ran it would keep."""
        settings = self._settings
        environment.set_defaults()
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        from service.engine import unnamed_tokens

        unnamed_tokens.allow()
        self._failure, self._death_told = None, False
        arguments: dict[str, Any] = {
            "model": str(self._checkpoint),
            "dtype": "auto",
            "enable_lora": True,
            "max_lora_rank": settings.max_lora_rank,
            "lora_target_modules": list(LINEARS),
            "max_num_seqs": settings.max_num_seqs,
            "structured_outputs_config": CONFIG,
            "enable_log_requests": False,
            "use_tqdm_on_load": False,
            **self._sizes.engine_arguments(),
            **_executor(settings),
        }
        self._engine = AsyncLLM.from_engine_args(
            AsyncEngineArgs(**arguments | settings.engine_args), stat_loggers=[_statistics(lambda: self.heard())]
        )


def _executor(settings: Settings) -> dict[str, Any]:
    """On a CPU the model runs in the process of vLLM's core, unless it is spread over several.

    Left alone, vLLM gives it a process of its own there, which is told its number of OpenMP threads as it starts; core
    and model then wait for one another at every step, in loops that take a core each. Here the variables that say how
    many threads there are (service/environment.py) are set before torch is loaded, so that no other process is needed.
    """
    ways = (int(settings.engine_args.get(f"{kind}_parallel_size", 1)) for kind in ("tensor", "pipeline", "data"))
    alone = environment.on_cpu() and max(ways) == 1
    return {"distributed_executor_backend": _IN_CORE} if alone else {}


def _statistics(heard: Callable[[], None]) -> Any:
    """The series of vLLM, less `vllm:lora_requests_info`, which grows by a sample for every mix of adapters there was.

    service/metrics.py has ours of that name. `heard` is called for every step of the engine that says something.
    """
    from vllm.v1.metrics.loggers import PrometheusStatLogger

    class Statistics(PrometheusStatLogger):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self.gauge_lora_info = None

        def record(self, *arguments: Any, **named: Any) -> None:
            heard()
            super().record(*arguments, **named)

    return Statistics


def _spare_the_collector() -> None:
    """Keep what has just been imported and built, some 800,000 objects, out of every garbage collection to come.

    A full one would hold the event loop for half a second, every minute or so. vLLM's engine process does the same.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _why(engine: Any, failure: Exception | None) -> str:
    """Why vLLM died, as far as anybody knows: `failure` is what it failed with in this process."""
    if said := forking.cause():
        return said
    if failure is not None:
        return repr(failure.__cause__ or failure)
    manager = engine.engine_core.resources.engine_manager
    ended = list(manager.finished_procs().values()) if manager else []
    return f"its core ended {how_it_ended(ended[0])}" if ended else "for a reason that it did not tell"


def _image_tokens(engine: Any, query: Query) -> int:
    """How many tokens more than their placeholders the pictures of a query take."""
    if not query.pictures:
        return 0
    info, sizes = engine.renderer.get_mm_processor().info, [picture.image.size for picture in query.pictures]
    return sum(info.get_num_image_tokens(image_width=width, image_height=height) - 1 for width, height in sizes)
