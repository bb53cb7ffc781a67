"""vLLM called in process, without HTTP and without our service: the most that anything in front of it can reach.

For each line of JSON on stdin (a `Measure`) it measures, and prints the result as a line of JSON (a `Measured`). The
engine is started with the arguments that our service starts it with. A line READY is printed first, when it is ready.
"""

import asyncio
import io
import itertools
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import uvloop

READY = "ready"


@dataclass(frozen=True)
class Measure:
    """What to measure: `clients` for so long, as `loadtest.client.keep_asking`; pictures are numbered from `first`.

    `pids` are the processes whose CPU time is measured.
    """

    clients: int
    warm_s: float
    seconds: float
    first: int
    pids: list[int]


@dataclass(frozen=True)
class Measured:
    """Seconds of each answer in the counted time, the processes' CPU seconds in it, and one answer to compare."""

    took: list[float]
    cpu_s: float
    answer: str


async def serve(model: str, options: dict[str, Any]) -> None:
    """Start the engine on the checkpoint `model` with `options` of the service, and measure until stdin ends."""
    from service.engine.vllm import VLLMEngine
    from service.prompt import Prompt
    from service.settings import Settings

    checkpoint = Path(model)
    engine = VLLMEngine(checkpoint, Settings(model=model, **options))
    await engine.start()
    print(READY, flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        found = await _measure(engine, Prompt(checkpoint), Measure(**json.loads(line)))
        print(json.dumps(asdict(found)), flush=True)
    await engine.stop()


async def _measure(engine: Any, prompt: Any, wanted: Measure) -> Measured:
    from PIL import Image
    from vllm.renderers.inputs.preprocess import parse_model_prompt
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    from loadtest.faces import MAX_TOKENS, QUESTION
    from loadtest.pictures import small
    from loadtest.servers import cpu_s

    llm, tokens = engine._engine, list(prompt.encode(QUESTION))
    numbers, took, answers, spent = itertools.count(wanted.first), list[float](), [""], list[float]()
    parameters = SamplingParams(temperature=0.0, max_tokens=MAX_TOKENS, output_kind=RequestOutputKind.FINAL_ONLY)
    began = time.perf_counter() + wanted.warm_s
    ended = began + wanted.seconds

    async def ask() -> None:
        while (at := time.perf_counter()) < ended:
            number = next(numbers)
            with Image.open(io.BytesIO(small(number))) as file:
                asked = {"prompt_token_ids": tokens, "multi_modal_data": {"image": file.convert("RGB")}}
            # Rendered on vLLM's thread, as vLLM's own server does; `generate` would do it on the event loop.
            (rendered,) = await llm.renderer.render_cmpl_async([parse_model_prompt(llm.model_config, asked)])
            async for output in llm.generate(rendered, parameters, f"limit-{number}"):
                answers[0] = output.outputs[0].text.strip()
            if began <= time.perf_counter() < ended:
                took.append(time.perf_counter() - at)

    async def watch() -> None:
        for edge in (began, ended):
            await asyncio.sleep(max(0.0, edge - time.perf_counter()))
            spent.append(cpu_s(wanted.pids))

    await asyncio.gather(watch(), *(ask() for _ in range(wanted.clients)))
    return Measured(took, spent[1] - spent[0], answers[0])


if __name__ == "__main__":
    from service import environment

    environment.prepare()
    sys.setswitchinterval(0.0001)  # as our service has it: the event loop waits less for threads that compute
    uvloop.run(serve(sys.argv[1], json.loads(sys.argv[2])))
