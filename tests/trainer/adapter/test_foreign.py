"""What other tools leave behind: each is taken in or refused by name.

docs/how-to/foreign-adapters.md has them in a table.

Every adapter here is made from the naming rule of its tool, as read in that tool's source; none was trained by it.
"""

import dataclasses
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.fsdp._common_utils import FSDP_WRAPPED_MODULE

from service.adapters.features import UNSERVED, unserved
from service.adapters.modules import CONFIG, TARGETS, WEIGHTS, language_model_linears
from service.errors import AdapterRefused
from tests.conftest import ROOT
from tests.test_cases import TESTS
from trainer.adapter.convert import convert
from trainer.adapter.foreign.tensors import PICKLE, WHOLE

MODEL = ROOT / "models/tiny-llava"
LINEARS = language_model_linears(MODEL)
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a" * 16 + b"\nsize 12345\n"
# What each module is called within PEFT's base_model.model, by the library that held the model.
TODAY, BEFORE, OWN = "model.language_model.layers.", "language_model.model.layers.", "model.layers."

Tensors = dict[str, torch.Tensor]


def tensors(layers: str = TODAY, rank: int = 4, prefix: str = "base_model.model.", name: str = "") -> Tensors:
    """Random pairs on all linears, each module called as `layers` says, with an adapter's `name` or none."""
    torch.manual_seed(0)
    found: Tensors = {}
    for module, (output, input_) in LINEARS.items():
        called = prefix + module.replace(TODAY, layers) + ".lora_{}" + f"{name}.weight"
        found[called.format("A")] = torch.randn(rank, input_)
        found[called.format("B")] = torch.randn(output, rank)
    return found


def config(**fields: Any) -> dict[str, Any]:
    """A configuration as PEFT 0.21 writes it."""
    plain = LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS).to_dict()
    written = {name: value for name, value in plain.items() if name != "runtime_config"}
    return written | {"peft_type": "LORA", "inference_mode": True} | fields


def saved(folder: Path, weights: Tensors | None = None, **fields: Any) -> Path:
    """PEFT's two files in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(config(**fields)))
    if weights is not None:
        save_file(weights, folder / WEIGHTS)
    return folder


def taken(source: Path, target: Path) -> Tensors:
    """What `publish` makes of a source."""
    convert(source, target, LINEARS, 64)
    found: Tensors = load_file(target / WEIGHTS)
    return found


def same(found: Tensors, expected: Tensors | None = None) -> bool:
    wanted = tensors() if expected is None else expected
    return found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)


# Tools, by what is special in their configuration and names: the directory is what each calls its output.
TOOLS: dict[str, tuple[str, dict[str, Any]]] = {
    # unsloth/models/vision.py: a regular expression for target modules, its own repository as the base.
    "unsloth": (
        BEFORE,
        {
            "base_model_name_or_path": "unsloth/llava-1.5-7b-hf-bnb-4bit",
            "auto_mapping": {
                "base_model_class": "LlavaForConditionalGeneration",
                "parent_library": "transformers.models.llava.modeling_llava",
                "unsloth_fixed": True,
            },
            "target_modules": r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?"
            r"(?:k_proj|o_proj|v_proj|q_proj|gate_proj|up_proj|down_proj).*?)",
            "task_type": "CAUSAL_LM",
        },
    ),
    # model_utils/visual.py: patch_target_modules writes the full names of a multimodal model's language part.
    "LLaMA-Factory": (
        TODAY,
        {"target_modules": sorted(LINEARS), "task_type": "CAUSAL_LM", "base_model_name_or_path": "llava-1.5-7b-hf"},
    ),
    # utils/utils.py: get_multimodal_target_regex; tuners are PEFT's.
    "ms-swift": (
        BEFORE,
        {
            "target_modules": r"^(language_model(?=\.).*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj))$",
            "task_type": "CAUSAL_LM",
            "peft_version": "0.18.1",
        },
    ),
    # llava/train/train.py: find_all_linear_names, in the days of PEFT 0.4.
    "LLaVA": (
        OWN,
        {
            "target_modules": ["q_proj", "v_proj", "o_proj"],
            "bias": "none",
            "base_model_name_or_path": "lmsys/vicuna-7b",
        },
    ),
    "a language model by itself": ("layers.", {"task_type": "CAUSAL_LM"}),
    "LlavaModel without a head": ("language_model.layers.", {"task_type": "FEATURE_EXTRACTION"}),
    "TRL": (TODAY, {"target_modules": "all-linear", "lora_dropout": 0.05}),
}


@pytest.mark.parametrize(("layers", "fields"), TOOLS.values(), ids=TOOLS)
def test_what_a_tool_writes_is_taken_in(tmp_path: Path, layers: str, fields: dict[str, Any]) -> None:
    """Beside it lies what the tool leaves there too, pickles among it, which nothing reads."""
    adapter = saved(tmp_path / "theirs", tensors(layers), **fields)
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (adapter / name).write_bytes(b"a pickle that nothing is to open")
    for name in ("trainer_state.json", "args.json", "additional_config.json", "README.md", "trainer_log.jsonl"):
        (adapter / name).write_text("{}")
    assert same(taken(adapter, tmp_path / "out"))


def test_peft_s_first_configurations_are_taken_in(tmp_path: Path) -> None:
    """LLaVA was published with PEFT 0.4, whose configuration knew a third of today's fields."""
    adapter = saved(tmp_path / "theirs")
    early = {"bias": "none", "fan_in_fan_out": False, "init_lora_weights": True, "lora_dropout": 0.05, "revision": None}
    fields = {"peft_type": "LORA", "r": 4, "lora_alpha": 256, "task_type": "CAUSAL_LM", "layers_pattern": None}
    (adapter / CONFIG).write_text(json.dumps(early | fields))
    torch.save(tensors(OWN, name=".default"), adapter / PICKLE)
    torch.save({}, adapter / WHOLE[0])
    (adapter / "config.json").write_text('{"model_type": "llava_llama"}')
    assert same(taken(adapter, tmp_path / "out"))


class _Layer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(2, 2)


def wrapped_by(wrap: Callable[[torch.nn.Module], Any]) -> str:
    """What a wrapper puts before the names of what it wraps."""
    (name, _), *_ = wrap(_Layer()).named_parameters()
    return str(name).removesuffix("inner.weight")


WRAPPERS = {
    "torch.compile": wrapped_by(torch.compile),
    "DataParallel, and DDP alike": wrapped_by(torch.nn.DataParallel),
    "activation checkpointing": "_checkpoint_wrapped_module.",  # checkpoint_wrapper takes it out of state dicts
    "FSDP": f"{FSDP_WRAPPED_MODULE}.",
    "FSDP before torch 2.0": f"{FSDP_WRAPPED_MODULE}._fpw_module.",
    "compiled within DDP": "module._orig_mod.",
    "Lightning": "model.",
    "Lightning with DeepSpeed": "_forward_module.model.",
    "PEFT twice": "base_model.model.",
}


def test_the_wrappers_of_torch_are_called_so() -> None:
    assert WRAPPERS["torch.compile"] == "_orig_mod."
    assert WRAPPERS["DataParallel, and DDP alike"] == "module."
    assert checkpoint_wrapper(_Layer())._modules.keys() == {"_checkpoint_wrapped_module"}


@pytest.mark.parametrize("words", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize("layers", [TODAY, BEFORE, OWN])
def test_words_that_a_wrapper_adds_at_the_front_are_taken_off(tmp_path: Path, words: str, layers: str) -> None:
    adapter = saved(tmp_path / "theirs", tensors(layers, prefix=f"{words}base_model.model."))
    assert same(taken(adapter, tmp_path / "out"))


@pytest.mark.parametrize("word", ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module"])
def test_words_that_a_wrapper_adds_in_the_middle_are_taken_off(tmp_path: Path, word: str) -> None:
    """As where each layer was compiled, sharded or checkpointed by itself."""
    weights = {re.sub(r"(layers\.\d+)", rf"{word}.\1.{word}", key): value for key, value in tensors().items()}
    assert same(taken(saved(tmp_path / "theirs", weights), tmp_path / "out"))


def test_patterns_of_rank_and_alpha_hold_for_wrapped_names(tmp_path: Path) -> None:
    weights = tensors(BEFORE, prefix="_orig_mod.base_model.model.")
    for key in [key for key in weights if "v_proj" in key]:
        weights[key] = torch.randn(8, weights[key].shape[1]) if "lora_A" in key else torch.randn(len(weights[key]), 8)
    patterns = {"rank_pattern": {"v_proj": 8}, "alpha_pattern": {"language_model.model.layers.0.self_attn.q_proj": 3}}
    taken(saved(tmp_path / "theirs", weights, **patterns), tmp_path / "out")
    written = json.loads((tmp_path / "out" / CONFIG).read_text())
    assert set(written["rank_pattern"].values()) == {8}
    assert len(written["rank_pattern"]) == len(LINEARS) / 7
    assert written["alpha_pattern"] == {"model.language_model.layers.0.self_attn.q_proj": 3}


@pytest.mark.parametrize("name", [".default", ".mine", ".reference"])
def test_an_adapter_s_own_name_within_a_tensor_s_name_is_taken_off(tmp_path: Path, name: str) -> None:
    """As in the state dict of a whole model."""
    assert same(taken(saved(tmp_path / "theirs", tensors(name=name)), tmp_path / "out"))


def test_several_adapters_in_one_file_are_refused_by_their_names(tmp_path: Path) -> None:
    """As DPO leaves them, where a whole model's state dict is saved."""
    adapter = saved(tmp_path / "theirs", tensors(name=".default") | tensors(name=".reference"))
    with pytest.raises(AdapterRefused, match=r"2 adapters, default, reference: .*selected_adapters"):
        taken(adapter, tmp_path / "out")


def checkpoints(output: Path, *steps: int) -> Path:
    """A Trainer's output folder; the adapter of each checkpoint is its step times the same."""
    for step in steps:
        folder = saved(output / f"checkpoint-{step}", {key: value * step for key, value in tensors().items()})
        state = {"global_step": step, "best_model_checkpoint": f"/home/them/{output.name}/checkpoint-{steps[0]}"}
        (folder / "trainer_state.json").write_text(json.dumps(state))
        (folder / f"global_step{step}").mkdir()
    (output / "runs").mkdir()
    return output


def test_of_a_trainer_s_checkpoints_the_last_is_taken_and_the_best_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    output = checkpoints(tmp_path / "output", 1, 2, 10)
    assert same(taken(output, tmp_path / "out"), {key: value * 10 for key, value in tensors().items()})
    assert "of 3 checkpoints the last is taken, checkpoint-10; its trainer found checkpoint-1 better" in caplog.text


def test_what_a_trainer_saved_at_its_end_comes_before_its_checkpoints(tmp_path: Path) -> None:
    output = saved(checkpoints(tmp_path / "output", 1, 2), tensors())
    assert same(taken(output, tmp_path / "out"))


def test_an_output_two_folders_deep_is_found(tmp_path: Path) -> None:
    """ms-swift writes output/v0-DATE-TIME/checkpoint-500."""
    checkpoints(tmp_path / "output" / "v0-20250101-101010", 1)
    assert same(taken(tmp_path / "output", tmp_path / "out"))


def test_the_one_folder_that_holds_an_adapter_is_taken(tmp_path: Path) -> None:
    """ms-swift's and PEFT's folder for an adapter called default."""
    saved(tmp_path / "theirs" / "default", tensors())
    (tmp_path / "theirs" / "images").mkdir()
    assert same(taken(tmp_path / "theirs", tmp_path / "out"))


def test_a_file_of_an_adapter_means_its_folder(tmp_path: Path) -> None:
    assert same(taken(saved(tmp_path / "theirs", tensors()) / WEIGHTS, tmp_path / "out"))


def several(folder: Path) -> None:
    for name in ("birds", "fish", "checkpoint-5"):
        saved(folder / name, tensors())


def two_runs(folder: Path) -> None:
    for name in ("v0", "v1"):
        checkpoints(folder / name, 5)


def touched(*names: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"x")

    return make


def whole_beside(name: str, key: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        saved(folder, tensors())
        (save_file if name.endswith("safetensors") else torch.save)({key: torch.ones(2, 2)}, folder / name)

    return make


def pointer(name: str, content: bytes = LFS) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        saved(folder, tensors())
        if name != WEIGHTS and name != CONFIG:
            (folder / WEIGHTS).unlink()
        (folder / name).write_bytes(content)

    return make


def fields(**changed: Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        saved(folder, tensors(), **changed)

    return make


def keys(change: Callable[[Tensors], Tensors]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        saved(folder, {key: value.clone() for key, value in change(tensors()).items()})

    return make


def also(key: str) -> Callable[[Path], None]:
    return keys(lambda found: found | {f"base_model.model.{key}": torch.ones(4, 4)})


def pissa(folder: Path) -> None:
    saved(folder, tensors(), init_lora_weights="pissa_niter_16")
    saved(folder / "pissa_converted", tensors())


def text(content: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        saved(folder, tensors())
        (folder / CONFIG).write_text(content)

    return make


def one_shard(folder: Path) -> None:
    saved(folder)
    save_file(tensors(), folder / "adapter_model-00001-of-00002.safetensors")


def twice_in_shards(folder: Path) -> None:
    saved(folder)
    for number in (1, 2):
        save_file(tensors(), folder / f"adapter_model-0000{number}-of-00002.safetensors")


def emptied(found: Tensors) -> Tensors:
    return {key: torch.empty(0) if number % 3 else value for number, (key, value) in enumerate(found.items())}


LAYER = "model.language_model.layers.0"
REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "several adapters": (several, "several adapters: name one of birds, fish, checkpoint-5"),
    "two runs of ms-swift": (two_runs, "several adapters: name one of v0/checkpoint-5, v1/checkpoint-5"),
    "nothing": (touched(), "no adapter_config.json, nor do the folders"),
    "weights without a configuration": (touched(WEIGHTS), "no adapter_config.json, where rank and alpha stand"),
    "LLaVA's projector": (touched("mm_projector.bin"), "LLaVA's projector alone"),
    "LLaVA's projector of each checkpoint": (touched("mm_projector/checkpoint-1.bin"), "LLaVA's projector alone"),
    "FSDP's shards": (touched("pytorch_model_fsdp_0/__0_0.distcp"), "shards of FSDP: save the adapter by itself"),
    "a distributed checkpoint": (touched("__0_0.distcp", ".metadata"), "shards of FSDP"),
    "DeepSpeed's state": (touched("zero_to_fp32.py", "global_step5/mp_rank_00_model_states.pt"), "state of DeepSpeed"),
    "a merged checkpoint": (touched("config.json", "model-00001-of-00002.safetensors"), "whole checkpoint.*VQA_MODEL"),
    "a merged checkpoint of pickles": (touched("pytorch_model.bin"), "whole checkpoint"),
    "Megatron": (touched("latest_checkpointed_iteration.txt"), "Megatron"),
    "MLX without a configuration": (touched("adapters.safetensors"), "MLX: convert it"),
    "GGUF": (touched("adapter.gguf"), r"llama\.cpp's form"),
    "Lightning's checkpoints": (touched("epoch=1-step=10.ckpt"), "Lightning"),
    "diffusers": (touched("pytorch_lora_weights.safetensors"), "diffusers"),
    "MLX": (text('{"fine_tune_type": "lora", "lora_parameters": {"rank": 8}}'), "MLX's; convert"),
    "no type": (text("{}"), "names no peft_type"),
    "no JSON": (text("r: 8"), "not a PEFT LoRA configuration"),
    "a list": (text("[]"), "names no peft_type"),
    "nested too deep": (text("[" * 100_000), "not a PEFT LoRA configuration"),
    "a configuration of a megabyte": (text(json.dumps({"x": "y" * 1_100_000})), "over 1000000 bytes"),
    "LLaVA with a projector": (whole_beside(WHOLE[0], "model.mm_projector.0.weight"), "model.mm_projector.0.weight"),
    "trainers made after LLaVA's": (whole_beside(WHOLE[1], "model.multi_modal_projector.linear_1.weight"), WHOLE[1]),
    "LLaVA's projector beside": (whole_beside("mm_projector.bin", "model.mm_projector.0.weight"), "mm_projector.bin"),
    "ms-swift with a tuned tower": (whole_beside("vit.safetensors", "model.vision_tower.x.weight"), "vit.safetensors"),
    "a git-LFS pointer for the weights": (pointer(WEIGHTS), "adapter_model.safetensors is a git-LFS pointer.*git lfs"),
    "a git-LFS pointer for the configuration": (pointer(CONFIG), "adapter_config.json is a git-LFS pointer"),
    "a git-LFS pointer for a pickle": (pointer(PICKLE), "adapter_model.bin is a git-LFS pointer"),
    "a web page for the weights": (pointer(WEIGHTS, b"<!doctype html><html>"), "is a web page"),
    "the hub's answer for the weights": (pointer(WEIGHTS, b"Entry not found"), "there is no such file"),
    "an empty file": (pointer(WEIGHTS, b""), "is empty: copy it again"),
    "half a file": (pointer(WEIGHTS, b"\x20\0\0\0\0\0\0\0{}"), "not a safetensors file"),
    "one of two shards": (one_shard, "1 of 2 safetensors shards"),
    "a tensor in two shards": (twice_in_shards, "another shard as well"),
    "tensors of DeepSpeed ZeRO-3": (keys(emptied), r"tensors are empty.*ZeRO-3.*stage3_gather_16bit"),
    "PiSSA of LLaMA-Factory": (pissa, r"PiSSA.*pissa_converted is the plain LoRA of it: name that"),
    "LoRA-GA": (fields(init_lora_weights="lora_ga"), "LoRA-GA change the base"),
    "a field of a later PEFT": (fields(use_sora=True), "use_sora: not a field of PEFT's LoRA known here.*take it out"),
    "a setting of a later PEFT": (fields(sora_config={"x": 1}), "sora_config: not a field"),
    "a later part of LoRA": (also(f"{LAYER}.self_attn.q_proj.lora_C.weight"), "lora_C: save a plain LoRA"),
    "a later part with A in its name": (also(f"{LAYER}.self_attn.q_proj.lora_A_scale"), "lora_A_scale"),
    "embedding": (also("model.language_model.embed_tokens.lora_embedding_A"), "vocabulary"),
    "tokens": (also("model.language_model.embed_tokens.token_adapter.trainable_tokens_delta"), "trainable_token"),
    "a head": (also("lm_head.lora_A.weight"), "vocabulary"),
    "a reward's head": (also("v_head.summary.weight"), "value head"),
    "a whole model's state dict": (also(f"{LAYER}.self_attn.q_proj.base_layer.weight"), "base's own weights"),
    "FSDP's flat parameters": (also(f"{LAYER}._fsdp_wrapped_module._flat_param"), "flat parameters"),
    "unsloth with its tower": (also("model.vision_tower.encoder.layers.0.mlp.fc1.lora_A.weight"), "finetune_vision_l"),
    "LLaVA's projector with LoRA": (also("model.mm_projector.0.lora_A.weight"), "projector: .*freeze_aligner"),
    "kohya": (also("lora_unet_down_blocks_0.lora_down.weight"), "kohya"),
    "Megatron's names": (also("decoder.layers.0.self_attention.linear_qkv.adapter.linear_in.weight"), "Megatron"),
    "joined linears": (also(f"{LAYER}.self_attn.qkv_proj.lora_A.weight"), "joined"),
    "a norm": (also(f"{LAYER}.input_layernorm.lora_A.weight"), "a norm"),
    "another model": (also("transformer.h.0.attn.c_attn.lora_A.weight"), "no module of a LLaVA"),
    "more layers": (
        keys(lambda found: found | {key.replace("layers.0", "layers.99"): value for key, value in found.items()}),
        "lands on no linear",
    ),
    "a compiled and a plain name": (
        keys(lambda found: found | {f"_orig_mod.{key}": value for key, value in found.items()}),
        "there twice",
    ),
    "all A zero": (
        keys(lambda found: {key: value * ("lora_B" in key) for key, value in found.items()}),
        "it would serve the base",
    ),
    "not a number": (keys(lambda found: {key: value * math.nan for key, value in found.items()}), "NaN"),
    "A without B": (
        keys(lambda found: {key: value for key, value in found.items() if f"{LAYER}.mlp.up_proj.lora_B" not in key}),
        "only one of lora_A and lora_B",
    ),
    "far too much": (keys(lambda found: found | {"model.x": torch.zeros(40, 1 << 20)}), "save the adapter alone"),
}


@pytest.mark.parametrize(("make", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_served_is_refused_by_name(tmp_path: Path, make: Callable[[Path], None], words: str) -> None:
    (tmp_path / "theirs").mkdir()
    make(tmp_path / "theirs")
    with pytest.raises(AdapterRefused, match=words):
        taken(tmp_path / "theirs", tmp_path / "out")
    assert not (tmp_path / "out" / "README.md").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere", "hf download"),
        ("x.gguf", "llama.cpp"),
        ("x.tar.gz", "unpack it"),
        ("x.zip", "unpack it"),
        ("x.safetensors", "name the folder"),
    ],
)
def test_a_path_that_is_no_folder_is_refused_with_the_way_out(tmp_path: Path, name: str, words: str) -> None:
    if name != "nowhere":
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(AdapterRefused, match=words):
        taken(tmp_path / name, tmp_path / "out")


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards_are_put_together(tmp_path: Path, kind: str) -> None:
    """Transformers writes an adapter over max_shard_size so, with an index that is called as a model's."""
    adapter = saved(tmp_path / "theirs")
    named = list(tensors().items())
    for number in range(3):
        file = adapter / f"adapter_model-0000{number + 1}-of-00003.{kind}"
        (save_file if kind == "safetensors" else torch.save)(dict(named[number::3]), file)
    (adapter / "model.safetensors.index.json").write_text("{}")
    assert same(taken(adapter, tmp_path / "out"))


def test_of_two_files_the_safetensors_is_read_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    adapter = saved(tmp_path / "theirs", tensors())
    torch.save({}, adapter / PICKLE)
    assert same(taken(adapter, tmp_path / "out"))
    assert f"{PICKLE} beside it is not" in caplog.text


def test_a_value_head_is_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    adapter = saved(tmp_path / "theirs", tensors())
    save_file({"v_head.summary.weight": torch.ones(1, 2)}, adapter / "value_head.safetensors")
    assert same(taken(adapter, tmp_path / "out"))
    assert "value head takes no part" in caplog.text


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_floats_of_other_widths_are_taken_in(tmp_path: Path, dtype: torch.dtype) -> None:
    adapter = saved(tmp_path / "theirs", {key: value.to(dtype) for key, value in tensors().items()})
    wanted = torch.float32 if dtype is torch.float64 else dtype
    assert {tensor.dtype for tensor in taken(adapter, tmp_path / "out").values()} == {wanted}


def test_every_field_of_peft_s_lora_is_known() -> None:
    """Where this fails a new PEFT is installed: say of each new field whether the engine can serve it."""
    plain = {field.name: True for field in dataclasses.fields(LoraConfig)}
    assert [fault for fault in unserved(plain) if "known here" in fault] == []
    assert len(unserved(plain | dict.fromkeys(UNSERVED, "x"))) == len(UNSERVED)


def json_values() -> st.SearchStrategy[Any]:
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    names = st.text(max_size=5)
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=2),
        max_leaves=4,
    )


@given(
    changed=st.dictionaries(st.sampled_from([*config(), "a_new_field"]), json_values(), min_size=1, max_size=3),
    pattern=st.text(max_size=6),
)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_configuration_says_it_is_taken_in_or_refused(
    tmp_path: Path, changed: dict[str, Any], pattern: str
) -> None:
    shutil.rmtree(tmp_path / "theirs", ignore_errors=True)
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    adapter = saved(tmp_path / "theirs", tensors(), **({"alpha_pattern": {pattern: 2}} | changed))
    try:
        found = taken(adapter, tmp_path / "out")
    except AdapterRefused:
        return
    assert same(found)


def test_the_table_names_every_case_and_tests_that_exist() -> None:
    table = (ROOT / "docs/how-to/foreign-adapters.md").read_text()
    rows = re.findall(r"^\| [^|]+ \| [^|]+ \| ([^|]+) \|$", table, re.M)
    named = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    tests = [name for name in named if name.startswith("test_")]
    known = {name.partition("::")[2] for name in TESTS}
    assert [name for name in tests if name not in known] == []
    assert sorted(name for name in named if name not in tests) == sorted([*TOOLS, *REFUSED])
