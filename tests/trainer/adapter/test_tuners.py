"""Adapters of PEFT's other methods become a LoRA that does the same, off by what is said, or are refused by name."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from service.adapters.modules import CONFIG, TARGETS, WEIGHTS, language_model_linears
from service.adapters.store import Store
from service.errors import AdapterRefused
from tests.conftest import ROOT
from trainer.__main__ import main
from trainer.adapter.convert import convert
from trainer.adapter.tuners import Conversion, to_lora, tuner_of
from trainer.data.row import Row
from trainer.evaluation.stock_rows import stock_rows
from trainer.model.checkpoint import Checkpoint
from trainer.model.features import States
from trainer.model.forest import collate, grow, pack
from trainer.model.forward import answer_logits
from trainer.model.tokens import encode

MODEL = ROOT / "models/tiny-llava"
LINEARS = language_model_linears(MODEL)
# PEFT's configurations whose start is random, so that the adapter does something; `r` as people choose it.
MADE: dict[str, Callable[[], Any]] = {
    "LOHA": lambda: peft.LoHaConfig(r=6, alpha=6, target_modules=TARGETS, init_weights=False),
    "LOKR": lambda: peft.LoKrConfig(
        r=4, alpha=4, decompose_factor=8, target_modules=r".*language_model.*\.(q|v)_proj", init_weights=False
    ),
    "VERA": lambda: peft.VeraConfig(r=48, target_modules=TARGETS, init_weights=False),
    "DoRA": lambda: peft.LoraConfig(r=8, use_dora=True, target_modules=r".*language_model.*\.(q|v)_proj"),
    "ADALORA": lambda: peft.AdaLoraConfig(init_r=6, target_r=4, total_step=10, target_modules=TARGETS),
    "DELORA": lambda: peft.DeloraConfig(r=8, target_modules=TARGETS, init_weights=False),
    "MISS": lambda: peft.MissConfig(r=16, target_modules=TARGETS, init_weights=False),
    "WAVEFT": lambda: peft.WaveFTConfig(n_frequency=64, target_modules=TARGETS, init_weights=False),
}
REFUSED: dict[str, Callable[[], Any]] = {
    "OFT": lambda: peft.OFTConfig(oft_block_size=32, target_modules=TARGETS, init_weights=False),
    "IA3": lambda: peft.IA3Config(target_modules=TARGETS, feedforward_modules=r".*down_proj", init_ia3_weights=False),
    "HRA": lambda: peft.HRAConfig(r=8, target_modules=TARGETS, init_weights=False),
}


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return Checkpoint.load(MODEL)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    stock = stock_rows(str(tmp_path_factory.mktemp("stock")))
    return [replace(row, answer="red") for row in stock]


@pytest.fixture(scope="module")
def states(checkpoint: Checkpoint, rows: list[Row]) -> States:
    return States.of(checkpoint, rows)


Make = Callable[[str], Path]


@pytest.fixture
def make(checkpoint: Checkpoint, tmp_path: Path) -> Make:
    """Save a random adapter of a method as PEFT does."""

    def saved(method: str) -> Path:
        torch.manual_seed(0)
        model = get_peft_model(checkpoint.model, (MADE | REFUSED)[method]())
        for name, parameter in model.named_parameters():
            if method == "DoRA" and "magnitude" in name:
                parameter.data.mul_(1 + 0.002 * torch.randn_like(parameter))
            elif method in ("DoRA", "ADALORA") and "lora_" in name:
                parameter.data.normal_(0, 0.1)
        model.save_pretrained(str(tmp_path / method))
        model.unload()
        return tmp_path / method

    return saved


def logits(checkpoint: Checkpoint, rows: list[Row], states: States) -> torch.Tensor:
    trees = grow(encode(rows, checkpoint.prompt, checkpoint.image_shape[0], last=True), 1)
    with torch.inference_mode():
        forests = pack(trees.lengths.tolist(), 2000, 100.0)
        return torch.cat([answer_logits(checkpoint.model, collate(trees, forest, states))[0] for forest in forests])


def through(checkpoint: Checkpoint, folder: Path, rows: list[Row], states: States) -> torch.Tensor:
    """Logits as PEFT itself has them through the files in a folder."""
    model = PeftModel.from_pretrained(checkpoint.model, str(folder)).eval()
    found = logits(checkpoint, rows, states)
    model.unload()
    return found


@pytest.mark.parametrize("method", MADE)
def test_the_lora_answers_as_the_adapter_did_off_by_no_more_than_is_said(
    method: str, make: Make, checkpoint: Checkpoint, rows: list[Row], states: States, tmp_path: Path
) -> None:
    folder = make(method)
    assert tuner_of(folder) == method
    conversion = to_lora(folder, method, tmp_path / "plain", checkpoint, LINEARS, rows, states, 64)
    converted = convert(tmp_path / "plain", tmp_path / "out", LINEARS, 64)
    assert converted.rank == conversion.rank <= 64
    trained = through(checkpoint, folder, rows, states)
    off = float((through(checkpoint, tmp_path / "out", rows, states) - trained).abs().max())
    moved = float((trained - logits(checkpoint, rows, states)).abs().max())
    assert off == pytest.approx(conversion.off, rel=0.05, abs=2e-4)
    assert moved == pytest.approx(conversion.moved, rel=0.05)
    assert off < 0.1 * moved
    assert moved > 0.01


def test_methods_of_low_rank_lose_nothing(
    make: Make, checkpoint: Checkpoint, rows: list[Row], states: States, tmp_path: Path
) -> None:
    ranks = {}
    for method in ("LOHA", "DELORA", "ADALORA", "VERA"):
        found = to_lora(make(method), method, tmp_path / f"{method}-plain", checkpoint, LINEARS, rows, states, 64)
        assert found.off < 1e-3 * found.moved
        ranks[method] = found.rank
    assert ranks == {"LOHA": 36, "DELORA": 8, "ADALORA": 6, "VERA": 48}  # LoHa's rank is r squared


@pytest.mark.parametrize("method", REFUSED)
def test_a_method_that_is_no_sum_is_refused_by_name(
    method: str, make: Make, checkpoint: Checkpoint, rows: list[Row], states: States, tmp_path: Path
) -> None:
    folder = make(method)
    with pytest.raises(AdapterRefused, match=f"holds {method}.*merge_and_unload"):
        to_lora(folder, method, tmp_path / "plain", checkpoint, LINEARS, rows, states, 64)
    assert not (tmp_path / "plain").exists()
    assert not any("lora" in name or "oft" in name for name, _ in checkpoint.model.named_modules())


def test_a_lora_that_would_be_another_adapter_is_refused_with_what_it_is_off_by(
    make: Make, checkpoint: Checkpoint, rows: list[Row], states: States, tmp_path: Path
) -> None:
    with pytest.raises(AdapterRefused, match=r"LOHA as a LoRA of rank 4, logits off by .*--max-rank"):
        to_lora(make("LOHA"), "LOHA", tmp_path / "plain", checkpoint, LINEARS, rows, states, 4)


def test_older_names_of_layers_mean_the_same(
    make: Make, checkpoint: Checkpoint, rows: list[Row], states: States, tmp_path: Path
) -> None:
    folder = make("LOHA")
    tensors = load_file(folder / WEIGHTS)
    older = {
        name.replace("model.language_model.layers", "language_model.model.layers"): t for name, t in tensors.items()
    }
    assert older.keys() != tensors.keys()
    save_file(older, folder / WEIGHTS)
    assert to_lora(folder, "LOHA", tmp_path / "plain", checkpoint, LINEARS, rows, states, 64).off < 1e-3


def change(folder: Path, **fields: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | fields))


def cut(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, folder / WEIGHTS)


def of_the_tower(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    key = sorted(tensors)[0]
    tensors[key.replace("language_model", "vision_tower.vision_model.encoder")] = tensors.pop(key)
    save_file(tensors, folder / WEIGHTS)


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a rank beyond reason": (lambda folder: change(folder, r=100_000), "r is 100000, over 1024"),
    "another rank than its tensors": (lambda folder: change(folder, r=5), "do not fit this base"),
    "a setting that PEFT does not know": (lambda folder: change(folder, sharpness=3), "sharpness"),
    "a tensor left out": (cut, "has no .*and 0 more"),
    "a tensor of the vision tower": (of_the_tower, "vision tower"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_is_refused_and_the_base_stays_as_it_was(
    fault: str, make: Make, checkpoint: Checkpoint, rows: list[Row], states: States, tmp_path: Path
) -> None:
    folder = make("LOHA")
    spoil, says = FAULTS[fault]
    spoil(folder)
    before = logits(checkpoint, rows, states)
    with pytest.raises(AdapterRefused, match=says):
        to_lora(folder, "LOHA", tmp_path / "plain", checkpoint, LINEARS, rows, states, 64)
    assert torch.equal(logits(checkpoint, rows, states), before)


def test_a_prompt_that_was_learnt_is_refused_before_the_base_is_loaded(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text(json.dumps({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 8}))
    with pytest.raises(AdapterRefused, match="PREFIX_TUNING, which learns a prompt"):
        tuner_of(tmp_path)


def test_publish_converts_and_says_what_it_cost(make: Make, tmp_path: Path) -> None:
    command = ["publish", "--adapter", str(make("DELORA")), "--name", "delora", "--model", str(MODEL)]
    assert main([*command, "--store", str(tmp_path / "store")]) == 0
    version = Store(tmp_path / "store").stable("delora")
    manifest = json.loads((version.path / "manifest.json").read_text())
    assert "DELORA as a LoRA of rank 8, logits off by at most" in manifest["trainer"]
    assert "DELORA as a LoRA of rank 8" in (version.path / "README.md").read_text()


def test_what_it_came_to_is_told_in_one_line() -> None:
    told = str(Conversion("VERA", 48, 0.0123, 4.567, "float32"))
    assert told == "VERA as a LoRA of rank 48, logits off by at most 0.01, where it moves them by 4.6 (float32)"
