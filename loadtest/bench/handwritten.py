"""A server as people write one by hand: FastAPI, transformers and PEFT, as fast as these are without vLLM.

Requests that come while a batch runs make the next one, of at most `--batch` rows, padded on the left. Pictures are
decoded and processed on threads while the model runs. A batch has the rows of one adapter, which `set_adapter` makes
the model's, as most such servers have it; with `--mixed` each row has its own by PEFT's `adapter_names`.

python -m loadtest.bench.handwritten --port 8403 --model models/tiny-llava --adapters STORE
"""

import argparse
import asyncio
import io
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import uvicorn
from fastapi import FastAPI, File, Form
from peft import PeftModelForCausalLM
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from service.adapters.store import Store


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One request: its picture's pixels (3, side, side), prompt and adapter, and the future of its answer."""

    pixels: torch.Tensor
    prompt: str
    adapter: str
    max_tokens: int
    answer: asyncio.Future[str]


class Model:
    """A LLaVA with every adapter of a store in memory."""

    def __init__(self, model: str, adapters: str, dtype: torch.dtype, mixed: bool) -> None:
        self.processor = AutoProcessor.from_pretrained(model)
        self.processor.tokenizer.padding_side = "left"
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        base = LlavaForConditionalGeneration.from_pretrained(model, dtype=dtype).to(self._device).eval()
        store = Store(adapters)
        first, *others = store.names()
        self._model: Any = PeftModelForCausalLM.from_pretrained(base, store.stable(first).path, adapter_name=first)
        for name in others:
            self._model.load_adapter(store.stable(name).path, adapter_name=name)
        self._model.eval()
        self._dtype, self.mixed = dtype, mixed

    def prepare(self, picture: bytes, question: str) -> tuple[torch.Tensor, str]:
        """The picture's pixels (3, side, side) and the prompt's text, with one image token."""
        with Image.open(io.BytesIO(picture)) as image:
            pixels = self.processor.image_processor(image.convert("RGB"), return_tensors="pt").pixel_values[0]
        content = [{"type": "image"}, {"type": "text", "text": question}]
        messages = [{"role": "user", "content": content}]
        return pixels, self.processor.apply_chat_template(messages, add_generation_prompt=True)

    @torch.inference_mode()
    def answer(self, rows: list[Row]) -> list[str]:
        """Each row's answer, from one batch; unless `mixed`, all rows are of one adapter."""
        image, tokenizer = self.processor.image_token, self.processor.tokenizer
        count = self._model.config.image_seq_length
        texts = [row.prompt.replace(image, image * count) for row in rows]
        tokens = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=True)
        tokens = tokens.to(self._device)
        whose: dict[str, Any] = {}
        if self.mixed:
            whose["adapter_names"] = [row.adapter or "__base__" for row in rows]
        elif rows[0].adapter:
            self._model.set_adapter(rows[0].adapter)
        with nullcontext() if self.mixed or rows[0].adapter else self._model.disable_adapter():
            generated = self._model.generate(
                **tokens,
                **whose,
                pixel_values=torch.stack([row.pixels for row in rows]).to(self._device, self._dtype),
                max_new_tokens=max(row.max_tokens for row in rows),
                do_sample=False,
            )
        return list(tokenizer.batch_decode(generated[:, tokens.input_ids.shape[1] :], skip_special_tokens=True))


class Batches:
    """Rows waiting for the model, taken as many at a time as a batch may have."""

    def __init__(self, model: Model, most: int) -> None:
        self._model, self._most, self._waiting = model, most, deque[Row]()
        self._came = asyncio.Event()

    async def ask(self, picture: bytes, question: str, adapter: str, max_tokens: int) -> str:
        """Queue a question; returns its answer once a batch has it."""
        pixels, prompt = await asyncio.to_thread(self._model.prepare, picture, question)
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting.append(Row(pixels, prompt, adapter, max_tokens, answer))
        self._came.set()
        return await answer

    async def run(self) -> None:
        """Run batch after batch until cancelled; what the model raises goes to the batch's requests."""
        while True:
            await self._came.wait()
            rows = self._take()
            try:
                answers = await asyncio.to_thread(self._model.answer, rows)
            except Exception as error:
                for row in rows:
                    row.answer.set_exception(error)
                continue
            for row, answer in zip(rows, answers, strict=True):
                row.answer.set_result(answer)

    def _take(self) -> list[Row]:
        """The next batch, in order of arrival: of all rows, or, unless mixed, of those with the first one's adapter."""
        first = self._waiting[0]
        rows = [row for row in self._waiting if self._model.mixed or row.adapter == first.adapter][: self._most]
        for row in rows:
            self._waiting.remove(row)
        if not self._waiting:
            self._came.clear()
        return rows


def create_app(batches: Batches) -> FastAPI:
    """The app: POST /ask takes a form as our /v1/vqa does; GET /health answers once it serves."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        running = asyncio.create_task(batches.run())
        yield
        running.cancel()

    app = FastAPI(lifespan=lifespan)

    @app.post("/ask")
    async def ask(
        image: Annotated[bytes, File()],
        question: Annotated[str, Form()],
        adapter: Annotated[str, Form()] = "",
        max_tokens: Annotated[int, Form()] = 64,
    ) -> dict[str, str]:
        return {"answer": await batches.ask(image, question, adapter, max_tokens)}

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    return app


def main(arguments: list[str]) -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.handwritten", description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8403)
    parser.add_argument("--model", default="models/tiny-llava", help="a llava-hf checkpoint")
    parser.add_argument("--adapters", default="models/adapters", help="adapter store")
    parser.add_argument("--batch", type=int, default=16, help="rows of a batch at most")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of weights and states")
    parser.add_argument("--mixed", action="store_true", help="rows of different adapters in one batch")
    given = parser.parse_args(arguments)
    model = Model(given.model, given.adapters, getattr(torch, given.dtype), given.mixed)
    uvicorn.run(create_app(Batches(model, given.batch)), port=given.port, log_level="warning")


if __name__ == "__main__":
    main(sys.argv[1:])
