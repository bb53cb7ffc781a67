"""What a training is planned to take: for whatever learns, and in each of several processes."""

from functools import partial
from types import SimpleNamespace

import pytest
from transformers import AutoConfig

import trainer.processes
from tests.conftest import ROOT
from trainer.config.training import AlignOptions, TuneOptions
from trainer.model.base_llava import unfreeze
from trainer.processes import sharing
from trainer.training.memory_plan import Need, Shape, need


@pytest.mark.parametrize("stage", [AlignOptions, TuneOptions])
def test_both_stages_of_a_base_are_planned(stage: type[AlignOptions | TuneOptions]) -> None:
    """Of the projector alone nothing would learn in a step without an image."""
    found = need(
        AutoConfig.from_pretrained(ROOT / "models/tiny-llava"),
        partial(unfreeze, parts=stage.learns),
        Shape(2, 64, 16),
        bfloat16=False,
        nf4=False,
        checkpointing=False,
        optimizer="adamw",
        on_gpu=False,
    )
    assert found.learns > 0
    assert found.moments == 2 * found.learns
    assert found.step > 0


@pytest.mark.parametrize(
    ("launcher", "shared"),
    [
        ({}, (1, 1)),
        ({"ACCELERATE_USE_FSDP": "true"}, (4, 4)),
        ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}, (1, 4)),
        ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, (4, 4)),
    ],
    ids=["ddp", "fsdp", "zero2", "zero3"],
)
def test_a_process_needs_its_part_of_what_is_shared_out(
    monkeypatch: pytest.MonkeyPatch, launcher: dict[str, str], shared: tuple[int, int]
) -> None:
    monkeypatch.setattr(trainer.processes, "this_process", lambda: SimpleNamespace(num_processes=4))
    for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_DEEPSPEED_ZERO_STAGE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)
    assert sharing() == shared
    weights, states = shared
    alone = Need(weights=100, learns=40, moments=80, step=60)
    gradients = 40 // states
    assert alone.shared(*shared) == Need(100, 40 // weights, 80 // states, 20 + gradients)
