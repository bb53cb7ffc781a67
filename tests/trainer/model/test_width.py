"""One training step at the 7B's width, two layers deep: loss and gradients are transformers' and PEFT's own."""

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoProcessor, LlavaForConditionalGeneration

from models import replica
from service.adapters.modules import TARGETS
from service.images import Preparation, picture
from service.prompt import Prompt
from tests.conftest import png
from trainer.adapter.lora import add_lora
from trainer.config.training import TrainOptions
from trainer.data.row import Row
from trainer.model.checkpoint import Checkpoint
from trainer.model.features import States
from trainer.model.forest import collate, grow, pack
from trainer.model.tokens import encode

pytest.importorskip("mistral_common")
pytestmark = pytest.mark.slow

RANK = 64
# Loss, relative to the plain one, and the gradients' difference, relative to their size: sums in another order in
# float32, and products rounded to bfloat16 on our side alone.
LIMITS = {"float32": (1e-5, 1e-4), "bfloat16": (5e-3, 0.1)}

Step = tuple[float, dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("width") / "model"
    replica.write(replica.Replica(output=folder, size="7b", layers=2, precision="bfloat16"))
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    folder = tmp_path_factory.mktemp("pictures")
    asked = [("what color is the shape?", "a deep red"), ("is there a circle in the picture?", "no")]
    found = [Row("text", None, "how many legs has a spider?", "eight of them", "all")]
    for colour, questions in (("red", asked), ("blue", asked[:1])):
        (folder / f"{colour}.png").write_bytes(png(colour, (60, 40)))
        for number, (question, answer) in enumerate(questions):
            found.append(Row(f"{colour}-{number}", str(folder / f"{colour}.png"), question, answer, "all"))
    return found


@pytest.fixture(scope="module")
def plain(model: Path, rows: list[Row]) -> Step:
    """A row at a time in float32 by LlavaForConditionalGeneration and PEFT, as their documentation has it."""
    llava: Any = LlavaForConditionalGeneration.from_pretrained(model, dtype=torch.float32).eval()
    wrapped = get_peft_model(llava, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=TARGETS))
    _draw(wrapped)
    processor, prompt = AutoProcessor.from_pretrained(model), Prompt(model)
    total = 0.0
    for row in rows:
        seen = picture(Path(row.image).read_bytes(), Preparation.of_checkpoint(model)).image if row.image else None
        question = prompt.text(row.question, 1 if seen else 0)
        text = f"{question} {row.answer}{processor.tokenizer.eos_token}"
        inputs = processor(images=seen, text=text, return_tensors="pt")
        answer = len(processor(images=seen, text=text, return_tensors="pt").input_ids[0]) - len(
            processor(images=seen, text=question, return_tensors="pt").input_ids[0]
        )
        labels = torch.full_like(inputs["input_ids"], -100)
        labels[0, -answer:] = inputs["input_ids"][0, -answer:]
        loss = wrapped(**inputs, labels=labels).loss * answer  # a mean over the answer's tokens
        loss.backward()
        total += float(loss.detach())
    step = total, _gradients(wrapped)
    del llava, wrapped
    gc.collect()
    return step


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("precision", list(LIMITS))
def test_loss_and_gradients_are_those_of_the_plain_path(
    model: Path, rows: list[Row], plain: Step, precision: str
) -> None:
    checkpoint = Checkpoint.load(model, bfloat16=precision == "bfloat16")
    lora = TrainOptions(name="x", data="", images="", rank=RANK)
    wrapped = add_lora(checkpoint.model, lora)
    _draw(wrapped)
    trees = grow(encode(rows, checkpoint.prompt, checkpoint.image_shape[0]), branches=16)
    forests = pack(trees.lengths.tolist(), 8192, bend=10_000)
    assert len(forests) == 1
    batch = collate(trees, forests[0], States.of(checkpoint, rows))
    with checkpoint.precision():
        loss = wrapped(**vars(batch))
    loss.backward()
    limit, far = LIMITS[precision]
    found = _gradients(wrapped)
    assert found.keys() == plain[1].keys()
    assert len(found) == 2 * 7 * 2
    off = {name: float((found[name] - true).norm() / true.norm()) for name, true in plain[1].items()}
    print(
        f"{precision}: loss {float(loss.detach()):.6f}, plain {plain[0]:.6f}; gradients off by {max(off.values()):.2g}"
    )
    assert float(loss.detach()) == pytest.approx(plain[0], rel=limit)
    assert max(off.values()) < far, off


def _draw(wrapped: Any) -> None:
    """The same LoRA in both, by the order of its parameters' names; a B of zeros would leave A without a gradient."""
    for number, (name, parameter) in enumerate(sorted(wrapped.named_parameters())):
        if "lora_" in name:
            generator = torch.Generator().manual_seed(number)
            scale = 0.001 if "lora_B" in name else parameter.shape[1] ** -0.5
            parameter.data = torch.randn(parameter.shape, generator=generator) * scale


def _gradients(wrapped: Any) -> dict[str, torch.Tensor]:
    return {
        name: parameter.grad.float() for name, parameter in wrapped.named_parameters() if parameter.grad is not None
    }
