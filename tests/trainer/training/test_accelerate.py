"""Several GPUs: accelerate takes the files that ship; what they share out is gathered, and one process publishes it."""

from os import environ
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from accelerate import DistributedType
from accelerate.commands.config import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from safetensors.torch import load_file
from transformers import AutoConfig, LlavaForConditionalGeneration

import trainer.adapter.lora
import trainer.commands.train
from tests.conftest import ROOT
from trainer.__main__ import main
from trainer.adapter.lora import without_lora
from trainer.config.training import AlignOptions, LoopOptions
from trainer.model.base_llava import WEIGHTS, unfreeze
from trainer.model.checkpoint import Checkpoint
from trainer.training.arguments import deepspeed_holds_bfloat16, in_bfloat16

MODEL = ROOT / "models/tiny-llava"
FILES = ROOT / "trainer/accelerate"
ZERO2, ZERO3, FSDP = (FILES / f"{name}.yaml" for name in ("zero2", "zero3", "fsdp"))


def launched(file: Path) -> Any:
    """What accelerate makes of a launch with `file`."""
    arguments = launch_command_parser().parse_args(
        ["--config_file", str(file), "--num_processes", "2", "-m", "trainer", "train"]
    )
    return _validate_launch_command(arguments)[0]


@pytest.mark.parametrize("file", [ZERO2, ZERO3, FSDP], ids=lambda file: file.stem)
def test_accelerate_takes_the_file_and_knows_every_key(file: Path) -> None:
    config = load_config_from_file(str(file))
    assert config.distributed_type == (DistributedType.FSDP if file == FSDP else DistributedType.DEEPSPEED)
    known = vars(launch_command_parser().parse_args(["-m", "trainer"]))
    assert {**config.deepspeed_config, **config.fsdp_config}.keys() <= known.keys()
    assert launched(file).mixed_precision == "no"  # --precision decides


def test_the_files_together_are_zero_2_zero_3_and_fsdp_2() -> None:
    assert sorted(FILES.iterdir()) == sorted([ZERO2, ZERO3, FSDP])
    assert [launched(file).zero_stage for file in (ZERO2, ZERO3)] == [2, 3]
    assert launched(FSDP).fsdp_version == 2


def test_what_is_shared_out_is_gathered_when_it_is_saved() -> None:
    """In these two cases transformers' Trainer gathers; otherwise it saves one process's part, or nothing."""
    assert launched(ZERO3).zero3_save_16bit_model is True
    assert launched(FSDP).fsdp_state_dict_type == "FULL_STATE_DICT"


def test_fsdp_wraps_a_layer_that_llava_has() -> None:
    with torch.device("meta"):
        llava = LlavaForConditionalGeneration(AutoConfig.from_pretrained(MODEL))
    classes = {type(module).__name__ for module in llava.model.language_model.modules()}
    assert launched(FSDP).fsdp_transformer_layer_cls_to_wrap in classes


@pytest.mark.parametrize("file", [ZERO2, ZERO3, FSDP], ids=lambda file: file.stem)
def test_nothing_is_said_twice_where_the_trainer_says_it(file: Path) -> None:
    """Accumulation, clipping and activation checkpointing are the trainer's options: a file's would contradict them."""
    config = load_config_from_file(str(file))
    theirs = {"gradient_accumulation_steps", "gradient_clipping", "fsdp_activation_checkpointing"}
    assert not theirs & {**config.deepspeed_config, **config.fsdp_config}.keys()


def test_a_model_computes_in_bfloat16_where_its_caller_turns_that_off() -> None:
    """As DeepSpeed's engine does around the model's forward pass."""
    model = in_bfloat16(torch.nn.Linear(2, 2), "cpu")
    with torch.autocast("cpu", enabled=False):
        assert model(torch.ones(1, 2)).dtype == torch.bfloat16


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("deepspeed", ["true", "false"])
@pytest.mark.parametrize("file_s", ["bf16", "no"])
def test_precision_is_the_trainer_s_whatever_the_launcher_s(
    monkeypatch: pytest.MonkeyPatch, precision: Literal["float32", "bfloat16"], deepspeed: str, file_s: str
) -> None:
    """DeepSpeed fails before the first step where its configuration and transformers' arguments differ."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", file_s)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", deepspeed)
    held = deepspeed_holds_bfloat16(LoopOptions(data=("rows",), images=("images",), precision=precision))
    assert held == (deepspeed == "true" and precision == "bfloat16")
    assert environ["ACCELERATE_MIXED_PRECISION"] == ("bf16" if held else "no")


def test_a_base_is_written_from_what_was_gathered(tmp_path: Path) -> None:
    model = unfreeze(Checkpoint.load(MODEL).model, AlignOptions.learns)
    gathered = {name: torch.full_like(tensor, 7) for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path, state_dict=gathered)
    written = load_file(tmp_path / WEIGHTS)
    assert written
    assert all("multi_modal_projector" in name and bool((tensor == 7).all()) for name, tensor in written.items())


@pytest.mark.parametrize("kind", [DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MULTI_GPU])
def test_answers_come_from_a_whole_model(monkeypatch: pytest.MonkeyPatch, kind: DistributedType) -> None:
    """FSDP and DeepSpeed take the model apart: the one process that goes on loads it again."""
    taken_off: list[bool] = []
    again = object()
    checkpoint: Any = SimpleNamespace(path=MODEL, bfloat16=False)
    lora = SimpleNamespace(unload=lambda: taken_off.append(True))
    monkeypatch.setattr(trainer.adapter.lora, "AcceleratorState", lambda: SimpleNamespace(distributed_type=kind))
    monkeypatch.setattr(Checkpoint, "load", lambda *_: again)
    shared_out = kind != DistributedType.MULTI_GPU
    assert without_lora(checkpoint, lora, nf4=False) is (again if shared_out else checkpoint)
    assert taken_off == ([] if shared_out else [True])


def test_of_several_processes_only_the_first_publishes(
    codes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = SimpleNamespace(is_main_process=False, wait_for_everyone=lambda: None)
    monkeypatch.setattr(trainer.commands.train, "this_process", lambda: other)
    monkeypatch.setattr(trainer.commands.train, "without_lora", lambda checkpoint, *_: checkpoint)
    monkeypatch.setattr(trainer.commands.train, "compare", lambda *_, **__: None)
    monkeypatch.setattr(trainer.commands.train, "fit", lambda *_, **__: tmp_path)
    paths = ["--data", str(codes / "train.jsonl"), "--images", str(codes), "--store", str(tmp_path / "store")]
    cache = ["--feature-cache", str(codes / "features")]
    assert main(["train", "--name", "x", *paths, "--model", str(MODEL), "--output", str(tmp_path), *cache]) == 0
    assert not (tmp_path / "store").exists()
