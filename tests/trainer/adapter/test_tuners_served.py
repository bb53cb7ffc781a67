"""Adapters that PEFT trained by other methods than LoRA, published, and served on vLLM as LoRA: `make test-slow`.

Each is trained by a plain loop, so that its numbers are of the kind that training makes. The service proves each with
the answers that the trainer saw; beyond that it has to answer as the adapter itself does in PEFT.
"""

import base64
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import peft
import pytest
import torch
from peft import PeftModel, get_peft_model

from service.adapters.modules import TARGETS
from service.adapters.store import Store
from tests.conftest import ROOT
from tests.test_start_on_vllm import STOPPED_S, Service
from trainer.__main__ import main
from trainer.data.forms.reading import Reading
from trainer.data.row import Row, per_question
from trainer.data.rows import read_rows
from trainer.evaluation.generate import predict
from trainer.model.checkpoint import Checkpoint
from trainer.model.features import States
from trainer.model.forest import collate, grow, pack
from trainer.model.forward import loss_sum
from trainer.model.tokens import encode

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

MODEL = ROOT / "models/tiny-llava"
METHODS: dict[str, Callable[[], Any]] = {
    "loha": lambda: peft.LoHaConfig(r=8, alpha=16, target_modules=TARGETS),
    "lokr": lambda: peft.LoKrConfig(r=8, alpha=16, decompose_factor=8, target_modules=TARGETS),
    "dora": lambda: peft.LoraConfig(r=8, lora_alpha=16, use_dora=True, target_modules=TARGETS),
    "vera": lambda: peft.VeraConfig(r=64, target_modules=TARGETS),
    "adalora": lambda: peft.AdaLoraConfig(init_r=8, target_r=8, lora_alpha=16, total_step=1000, target_modules=TARGETS),
    "miss": lambda: peft.MissConfig(r=16, target_modules=TARGETS),
}
RATES = {"vera": 3e-2, "loha": 1e-2}
# So many that each of the six is sure of most answers: of one half learnt, INT4 weights turn one answer in twelve.
_ROWS, _EPOCHS = 60, 30


def taught(checkpoint: Checkpoint, config: Any, rows: list[Row], states: States, rate: float) -> Any:
    """The base behind an adapter that has learnt `rows`, by a plain loop."""
    torch.manual_seed(0)
    model = get_peft_model(checkpoint.model, config)
    trees = grow(encode(rows, checkpoint.prompt, checkpoint.image_shape[0], last=True), 8)
    forests = [collate(trees, forest, states) for forest in pack(trees.lengths.tolist(), 1000, 100.0)]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    for _ in range(_EPOCHS):
        for batch in forests:
            loss = loss_sum(checkpoint.model, batch) / len(batch.labels)
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own
            optimizer.step()
            optimizer.zero_grad()
    return model


def test_adapters_of_six_methods_are_served_as_peft_answers_through_them(codes: Path, tmp_path: Path) -> None:
    checkpoint = Checkpoint.load(MODEL)
    rows = per_question(read_rows(str(codes / "train.jsonl"), str(codes), Reading()))[:_ROWS]
    states = States.of(checkpoint, rows)
    store, told, answers = tmp_path / "store", {}, {}
    for name, make in METHODS.items():
        model = taught(checkpoint, make(), rows, states, RATES.get(name, 5e-3))
        model.save_pretrained(str(tmp_path / name))
        model.unload()
        model = PeftModel.from_pretrained(checkpoint.model, str(tmp_path / name)).eval()
        answers[name] = predict(checkpoint, checkpoint.model, rows, states, name)
        model.unload()
        paths = ["--adapter", str(tmp_path / name), "--name", name, "--model", str(MODEL), "--store", str(store)]
        # A trained DoRA scales rows of the base, which takes many ranks: of 64 it is off by a seventh, and refused.
        paths += ["--max-rank", "128"]
        assert (
            main(
                ["publish", *paths, "--data", str(codes / "train.jsonl"), "--images", str(codes), "--limit", str(_ROWS)]
            )
            == 0
        )
        manifest = json.loads((Store(store).stable(name).path / "manifest.json").read_text())
        told[name] = manifest["trainer"], manifest["score"]
    service = Service(tmp_path / "log", "--adapters", str(store), "--max-lora-rank", "128")
    try:
        service.until_ready()
        same = {
            name: sum(ask(service, name, row) == said.text for row, said in zip(rows, expected, strict=True))
            for name, expected in answers.items()
        }
        for name, count in same.items():
            print(f"{name}: {count} of {len(rows)} answers as in PEFT; {told[name]}")
        # INT4 weights serve, and bfloat16 decides a tie otherwise.
        assert min(same.values()) >= len(rows) - 2, same
    finally:
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(STOPPED_S) == 0


def ask(service: Service, name: str, row: Row) -> str:
    image = base64.b64encode(Path(str(row.image)).read_bytes()).decode()
    body = {"question": row.question, "adapter": name, "image": f"data:image/png;base64,{image}", "max_tokens": 8}
    response = httpx.post(f"{service.url}/v1/vqa", json=body, timeout=120)
    assert response.is_success, response.text
    answer: str = response.json()["answer"]
    return answer
