"""Writes base checkpoints that transformers and vLLM both load; a directory gets its name once it is whole."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import load_file, save_file

from service.adapters.base import Base
from service.checkpoint import locate
from trainer.disk import check_folder
from trainer.errors import OptionError

INDEX = "model.safetensors.index.json"
# Precisions of weights that can be trained or packed.
FLOATS = ("bfloat16", "float16", "float32")


# A checkpoint's files beside its weights: configuration, tokenizer, chat template, preparation of images. Training
# changes none of them.
_COMPANIONS = ("*.json", "*.jinja", "*.model", "*.txt")


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """A directory to write into that takes the name `target` when the block ends well, and goes when it does not."""
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        part.rename(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def begin_copy(model: str, output: Path, instead: str, share: float = 1.0) -> Path:
    """The directory of the base checkpoint `model`, of which a changed copy can be written to `output`.

    `instead` ends the sentence that refuses packed weights: why they cannot be changed, and what can. The copy takes
    `share` of the bytes of the checkpoint's weights.

    Raises:
        OptionError: `output` is there already, cannot be written or lacks room, or the checkpoint is packed.
        FileNotFoundError: `model` is not a LLaVA checkpoint.
    """
    source = locate(model)
    if output.exists():
        raise OptionError(f"--output: {output} is there already: name a new directory")
    if (precision := Base.of_checkpoint(source).precision) not in FLOATS:
        raise OptionError(f"--model: {model} is {precision}, and {instead}")
    check_folder("--output", output.parent, int(share * bytes_of(source)))
    return source


def bytes_of(source: Path) -> int:
    """Bytes that the weights of a checkpoint take on disk."""
    return sum(file.stat().st_size for file in source.glob("*.safetensors"))


def copy_companions(source: Path, target: Path) -> None:
    """Copy a checkpoint's files other than weights: configuration, tokenizer, processor, chat template."""
    for file in (file for pattern in _COMPANIONS for file in source.glob(pattern) if file.name != INDEX):
        shutil.copyfile(file, target / file.name)


def rename_tower(directory: Path) -> None:
    """Give the tower's tensors the prefix of llava-hf checkpoints, which transformers 5 drops when it saves."""
    for file in directory.glob("*.safetensors"):
        save_file({_name(key): tensor for key, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
        file.chmod(0o644)
    if (index := directory / INDEX).is_file():
        content = json.loads(index.read_text())
        content["weight_map"] = {_name(key): file for key, file in content["weight_map"].items()}
        index.write_text(json.dumps(content, indent=2) + "\n")


def _name(key: str) -> str:
    return key if "vision_model" in key else key.replace("vision_tower.", "vision_tower.vision_model.")


def on_disk(name: str) -> str:
    """The name in llava-hf checkpoints of the tensor that transformers 5 calls `name`; such names stay as they are."""
    name = name.removeprefix("model.")
    if name.startswith("lm_head."):
        return f"language_model.{name}"
    if name.startswith("language_model.") and not name.startswith(("language_model.model.", "language_model.lm_head.")):
        return name.replace("language_model.", "language_model.model.", 1)
    return _name(name)
