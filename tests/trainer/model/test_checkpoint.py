"""The base as it is trained on: INT4 as it serves, NF4, and LoRA's options."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BitsAndBytesConfig, LlavaForConditionalGeneration

from service.adapters.base import Base
from tests.conftest import ROOT, png
from trainer.adapter.lora import add_lora
from trainer.config.training import TrainOptions
from trainer.data.row import Row
from trainer.errors import OptionError
from trainer.model.checkpoint import Checkpoint
from trainer.model.features import States
from trainer.model.forest import collate, grow
from trainer.model.forward import loss_sum
from trainer.model.tokens import encode

BF16, INT4 = ROOT / "models/tiny-llava", ROOT / "models/tiny-llava-int4"


def options(**changes: object) -> TrainOptions:
    return TrainOptions.model_validate({"name": "x", "data": "", "images": "", "rank": 8, **changes})


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    (tmp_path / "red.png").write_bytes(png("red", (64, 64)))
    return [Row("0", str(tmp_path / "red.png"), "what color is the shape?", "red", "all")]


def gradient(checkpoint: Checkpoint, rows: list[Row]) -> float:
    """The LoRA's largest gradient on `rows`; everything else must have none."""
    model = add_lora(checkpoint.model, options())
    batch = collate(grow(encode(rows, checkpoint.prompt, 64), 16), [[0]], States.of(checkpoint, rows))
    loss = loss_sum(model.get_base_model(), batch)
    loss.backward()  # type: ignore[no-untyped-call]
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert found
    assert all("lora" in name and "language_model" in name for name in found)
    return max(float(grad.abs().max()) for grad in found.values())


def test_an_int4_base_is_trained_on_with_the_values_that_serve(rows: list[Row]) -> None:
    checkpoint = Checkpoint.load(INT4)
    weight = checkpoint.model.model.language_model.layers[0].mlp.up_proj.weight
    groups = weight.detach().reshape(-1, 32)
    assert max(len(group.unique()) for group in groups) <= 16  # four bits to a group of 32
    assert checkpoint.base.digest == Base.of_checkpoint(BF16).digest
    assert gradient(checkpoint, rows) > 0


def test_nf4_holds_the_language_model_in_four_bits_and_trains(rows: list[Row]) -> None:
    pytest.importorskip("bitsandbytes")
    checkpoint = Checkpoint.load(BF16, nf4=True)
    packed = {name for name, module in checkpoint.model.named_modules() if type(module).__name__ == "Linear4bit"}
    assert len(packed) == 7 * 4
    assert all("language_model.layers" in name for name in packed)
    assert gradient(checkpoint, rows) > 0


def test_nf4_is_packed_on_the_process_s_own_gpu_in_the_type_it_is_shared_out_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What transformers is asked for; the packing itself needs bitsandbytes and a GPU."""
    asked: dict[str, Any] = {}

    def ask(_path: Path, **options: Any) -> None:
        asked.update(options)
        raise KeyboardInterrupt

    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(BitsAndBytesConfig, "post_init", lambda _: None)  # it looks for the package
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: True)
    monkeypatch.setattr(LlavaForConditionalGeneration, "from_pretrained", ask)
    with pytest.raises(KeyboardInterrupt):
        Checkpoint.load(BF16, nf4=True)
    assert asked["device_map"] == {"": "cuda:3"}
    packing = asked["quantization_config"]
    assert (packing.bnb_4bit_compute_dtype, packing.bnb_4bit_quant_storage) == (torch.bfloat16, torch.bfloat16)


def test_nf4_of_int4_is_refused() -> None:
    with pytest.raises(OptionError, match="--nf4"):
        Checkpoint.load(INT4, nf4=True)


def test_rank_and_alpha_can_differ_by_module_and_rslora_scales_by_the_root() -> None:
    checkpoint = Checkpoint.load(BF16)
    model = add_lora(
        checkpoint.model, options(rslora=True, rank_pattern={"layers.0.mlp.up_proj": 16}, alpha_pattern={"q_proj": 4.0})
    )
    layers = model.get_base_model().model.language_model.layers
    assert layers[0].mlp.up_proj.r["default"] == 16
    assert layers[1].mlp.up_proj.r["default"] == 8
    assert layers[1].mlp.up_proj.scaling["default"] == pytest.approx(16 / 8**0.5)
    assert layers[1].self_attn.q_proj.scaling["default"] == pytest.approx(4 / 8**0.5)


@pytest.mark.parametrize("option", ["rank", "alpha"])
@pytest.mark.parametrize("pattern", ["layers.0", "up_porj", "vision_tower.*"])
def test_a_pattern_that_is_no_modules_is_refused(option: str, pattern: str) -> None:
    patterns = {f"{option}_pattern": {"layers.0.*": 16, pattern: 16}}
    with pytest.raises(OptionError, match=rf"--{option}-pattern: '{re.escape(pattern)}'"):
        add_lora(Checkpoint.load(BF16).model, options(**patterns))


def test_the_seed_decides_the_first_weights() -> None:
    def first(seed: int) -> torch.Tensor:
        model = add_lora(Checkpoint.load(BF16).model, options(seed=seed))
        found: torch.Tensor = next(p.detach().clone() for name, p in model.named_parameters() if "lora_A" in name)
        return found

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


@pytest.mark.parametrize("source", [BF16, INT4], ids=lambda path: path.name)
def test_a_base_in_bfloat16_has_the_loss_of_autocast_over_float32_bit_for_bit(source: Path, rows: list[Row]) -> None:
    found = []
    for held in (False, True):
        checkpoint = Checkpoint.load(source, bfloat16=held)
        batch = collate(
            grow(encode(rows, checkpoint.prompt, 64), 16), [[0]], States.of(replace(checkpoint, bfloat16=True), rows)
        )
        model = add_lora(checkpoint.model, options())
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_sum(model.get_base_model(), batch)
        found.append(loss.detach())
        if held:
            matrices = [p for p in checkpoint.model.parameters() if p.ndim == 2 and not p.requires_grad]
            exact = [p for name, p in model.named_parameters() if "norm" in name or "lora" in name]
            assert sum(p.dtype == torch.bfloat16 for p in matrices) > 0.9 * len(matrices)
            assert {p.dtype for p in exact} == {torch.float32}
    assert torch.equal(found[0], found[1])
