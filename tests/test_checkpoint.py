"""What is no LLaVA-1.5 checkpoint, or no whole one, is refused in one sentence by its files, before anything loads."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.checkpoint import check_checkpoint, locate
from tests.conftest import CHECKPOINT, ROOT
from trainer.__main__ import main
from trainer.errors import OptionError
from trainer.model.checkpoint import Checkpoint

MODEL = ROOT / "models/tiny-llava"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(MODEL, tmp_path / "model", copy_function=shutil.copyfile)
    return tmp_path / "model"


def edit(file: Path, **fields: Any) -> None:
    content = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def cut(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def another_processor(folder: Path) -> None:
    edit(folder / "processor_config.json", processor_class="LlavaNextProcessor", image_processor=None)


def a_missing_shard(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "llava_next": (lambda at: edit(at / "config.json", model_type="llava_next"), "is a llava_next checkpoint"),
    "qwen2_vl": (lambda at: edit(at / "config.json", model_type="qwen2_vl"), "is a qwen2_vl checkpoint"),
    "haotian-liu/LLaVA": (lambda at: edit(at / "config.json", model_type="llava_llama"), "is a llava_llama checkpoint"),
    "its processor": (another_processor, "LlavaNextProcessor"),
    "no processor": (lambda at: (at / "processor_config.json").unlink(), "no preprocessor_config.json"),
    "bitsandbytes": (
        lambda at: edit(at / "config.json", quantization_config={"quant_method": "bitsandbytes"}),
        "quantised by bitsandbytes",
    ),
    ".bin weights": (pickled, "its weights are pickles"),
    "no weights": (lambda at: (at / "model.safetensors").unlink(), "no weights"),
    "no pad token": (lambda at: edit(at / "tokenizer_config.json", pad_token=None), "pad_token"),
    "no tokenizer": (lambda at: (at / "tokenizer.json").unlink(), "no tokenizer.json"),
    "no template": (lambda at: (at / "chat_template.jinja").unlink(), "no chat template"),
    "cut weights": (lambda at: cut(at / "model.safetensors", 100_000), "is cut off"),
    "cut within the header": (lambda at: cut(at / "model.safetensors", 20), "is cut off"),
    "a git-LFS pointer for the weights": (
        lambda at: (at / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d"),
        "is a git-LFS pointer",
    ),
    "empty weights": (lambda at: cut(at / "model.safetensors", 0), "is cut off"),
    "a missing shard": (a_missing_shard, "is not complete: it has no model-00002-of-00002"),
    "cut config": (lambda at: cut(at / "config.json", 30), "is not JSON"),
    "no config": (lambda at: (at / "config.json").unlink(), "no config.json"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_served_is_refused_in_one_sentence(copy: Path, fault: str) -> None:
    make, words = FAULTS[fault]
    make(copy)
    with pytest.raises(FileNotFoundError, match=words) as refused:
        locate(str(copy))
    assert "\n" not in str(refused.value)
    assert str(copy) in str(refused.value)


@pytest.mark.parametrize("model", [MODEL, CHECKPOINT])
def test_the_embedded_checkpoints_are_whole(model: Path) -> None:
    check_checkpoint(model)


@pytest.mark.parametrize("command", ["train", "base tune", "publish", "quantize", "merge"])
def test_every_command_refuses_it(
    copy: Path, tmp_path: Path, codes: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    edit(copy / "config.json", model_type="llava_next")
    output = ["--output", str(tmp_path / "out")]
    data = ["--data", str(codes / "train.jsonl"), "--images", str(codes)]
    adapter, store = ["--adapter", str(MODEL)], ["--store", str(tmp_path / "store")]
    cache = ["--feature-cache", str(tmp_path / "features")]
    options = {
        "train": [*data, *output, *store, *cache, "--name", "x"],
        "base tune": [*data, *output, *cache],
        "publish": [*adapter, *store, "--name", "x"],
        "quantize": output,
        "merge": [*adapter, *output],
    }
    assert main([*command.split(), "--model", str(copy), *options[command]]) == 2
    assert "llava_next" in capsys.readouterr().err


def test_weights_packed_by_another_are_served_perhaps_but_not_trained_on(copy: Path) -> None:
    edit(copy / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    check_checkpoint(copy)
    with pytest.raises(OptionError, match="int4 by gptq"):
        Checkpoint.load(copy)
