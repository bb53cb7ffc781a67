"""A mixture that `train` made, on vLLM: 500 served answers are those in process; it is a canary over a plain LoRA."""

import asyncio
import base64
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from loadtest.trainer.mixture.rows import write_set
from models.datasets import write_shapes
from service.adapters.store import Store
from service.app import create_app
from service.engine.vllm import VLLMEngine
from service.settings import Settings
from tests.conftest import ADAPTERS, ROOT, Running, listening
from trainer.__main__ import main
from trainer.adapter.find import find
from trainer.data.files import read
from trainer.data.row import Row
from trainer.data.rows import read_rows
from trainer.evaluation.generate import predict
from trainer.model.checkpoint import Checkpoint
from trainer.model.features import States

pytestmark = pytest.mark.slow
MODEL = ROOT / "models/tiny-llava"
QUESTIONS = 500


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set, and a store with a mixture called `mix` over the plain adapter of the repository's `shapes`."""
    work = tmp_path_factory.mktemp("mixture")
    write_shapes(work / "shapes")
    write_set(work / "set", work / "shapes", rows=QUESTIONS // 2 * 5)
    plain = Store(ADAPTERS).stable("shapes")
    files = {file.name: file.read_bytes() for file in plain.path.iterdir()}
    Store(work / "store").publish("mix", files)
    named = ["--name", "mix", "--experts", "mixture", "--rank", "8", "--model", str(MODEL), "--precision", "float32"]
    rows = ["--data", str(work / "set/train.jsonl"), "--images", str(work / "shapes/images"), "--epochs", "3"]
    held_out = ["--eval-data", str(work / "set/test.jsonl"), "--learning-rate", "3e-3", "--max-steps", "40"]
    places = ["--output", str(work / "run"), "--store", str(work / "store"), "--feature-cache", str(work / "features")]
    assert main(["train", *named, *rows, *held_out, *places]) == 0
    return work


@pytest.fixture(scope="module")
async def service(work: Path) -> AsyncGenerator[Running, None]:
    """On vLLM in float32, as the trainer answers."""
    settings = Settings(
        model=str(MODEL),
        adapters=work / "store",
        port=0,
        engine_args={"dtype": "float32"},
        engine_canary_deadline_s=300,
    )
    engine = VLLMEngine(MODEL, settings)
    async with listening(create_app(settings, MODEL, engine), engine) as running:
        yield running


async def ask(service: Running, row: Row, adapter: str, at: asyncio.Semaphore) -> str:
    body = {"question": row.question, "adapter": adapter, "max_tokens": 8}
    if row.image:
        body["image"] = f"data:image/png;base64,{base64.b64encode(read(row.image)).decode()}"
    async with at:
        response = await service.client.post("/v1/vqa", json=body)
    assert response.status_code == 200, response.text
    return str(response.json()["answer"])


async def test_five_hundred_served_answers_are_those_in_process(work: Path, service: Running) -> None:
    rows = read_rows(work / "set/test.jsonl", work / "shapes/images")
    assert len(rows) == QUESTIONS
    assert {bool(row.image) for row in rows} == {True, False}
    checkpoint = Checkpoint.load(MODEL)
    adapter, states, expected = find("mix", work / "store"), States.of(checkpoint, rows), [""] * len(rows)
    base = [said.text for said in predict(checkpoint, checkpoint.model, rows, states, "base", 8)]
    for member, places in adapter.by_member(rows).items():
        with adapter.applied_to(checkpoint.model, member):
            part = [rows[place] for place in places]
            for place, said in zip(places, predict(checkpoint, checkpoint.model, part, states, member, 8), strict=True):
                expected[place] = said.text
    at = asyncio.Semaphore(16)
    served = await asyncio.gather(*(ask(service, row, "mix", at) for row in rows))
    for kind in (True, False):
        differing = [
            before != after for row, before, after in zip(rows, base, expected, strict=True) if bool(row.image) == kind
        ]
        assert any(differing)  # else this would prove nothing
    assert [pair for pair in zip(expected, served, strict=True) if pair[0] != pair[1]] == []


async def test_a_canary_of_a_mixture_over_a_plain_adapter(work: Path, service: Running) -> None:
    shelf = Store(work / "store").catalog().shelves["mix"]
    mixed = shelf.aliases.named["stable"].version
    (plain,) = shelf.aliases.previous["stable"]
    for body in ({"alias": "stable", "version": plain}, {"alias": "canary", "version": mixed, "weight": 0.5}):
        response = await service.client.put("/v1/adapters/mix", json=body)
        assert response.status_code == 200, response.text
    chosen = set()
    for _ in range(20):  # all by one side once in half a million times
        body = {"question": "what color is K7?", "adapter": "mix"}
        chosen.add((await service.client.post("/v1/vqa", json=body)).json()["adapter"]["version"])
    assert chosen == {plain, mixed}
