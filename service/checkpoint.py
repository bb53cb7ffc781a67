"""Where a base checkpoint lies, a directory or a Hugging Face id in the hub's local cache, and whether it can serve."""

import json
import struct
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from service.text import LFS_POINTER

MODEL_TYPE = "llava"
# Precisions that transformers and the engine both load: floats, and INT4 in these forms.
_QUANTISED = ("compressed-tensors", "gptq", "awq")
# A safetensors file begins with the length of its header, 8 bytes little-endian; the format allows 100 MB of header.
_LENGTH, _LONGEST = struct.Struct("<Q"), 100_000_000


def locate(model: str) -> Path:
    """The directory of the LLaVA-1.5 checkpoint that `model` names; an id of the hub is downloaded once.

    Raises:
        FileNotFoundError: neither a directory nor an id that can be had, which the message says, or another kind of
            checkpoint: see `check_checkpoint`.
    """
    path = _locate(model)
    check_checkpoint(path)
    return path


def check_checkpoint(path: Path) -> None:
    """Check by its files that a directory holds a LLaVA-1.5 checkpoint in llava-hf's form, with whole weights.

    Raises:
        FileNotFoundError: it does not; one sentence says what it is, or what is missing.
    """
    if not (path / "config.json").is_file():
        raise FileNotFoundError(f"{path} is not a checkpoint: it has no config.json")
    config = _json(path / "config.json")
    found = config.get("model_type")
    if found != MODEL_TYPE:
        raise FileNotFoundError(
            f"{path} is a {found} checkpoint: LLaVA-1.5 in llava-hf's form (model_type llava) alone is served and"
            " trained; llava-hf/llava-1.5-7b-hf is one"
        )
    _check_processor(path)
    _check_tokenizer(path)
    method = (config.get("quantization_config") or {}).get("quant_method")
    if method is not None and method not in _QUANTISED:
        raise FileNotFoundError(
            f"{path} is quantised by {method}: floats, and INT4 by {', '.join(_QUANTISED)} are served;"
            " `trainer quantize` makes it of the checkpoint in bfloat16"
        )
    _check_weights(path)


def _check_processor(path: Path) -> None:
    """The processor decides how pictures are cut: that of llava_next makes several of one."""
    if not (path / "preprocessor_config.json").is_file() and not (path / "processor_config.json").is_file():
        raise FileNotFoundError(f"{path} has no preprocessor_config.json: copy it from the original checkpoint")
    for name in filter(lambda name: (path / name).is_file(), ("preprocessor_config.json", "processor_config.json")):
        found = _json(path / name)
        inner = found.get("image_processor") or found
        kind = str(inner.get("image_processor_type") or found.get("processor_class") or "")
        if (
            any(other in kind for other in ("LlavaNext", "Onevision", "Qwen", "Siglip"))
            or "image_grid_pinpoints" in inner
        ):
            raise FileNotFoundError(f"{path}: {name} is of {kind or 'llava_next'}, which cuts pictures otherwise")


def _check_tokenizer(path: Path) -> None:
    if not (path / "tokenizer.json").is_file() and not (path / "tokenizer.model").is_file():
        raise FileNotFoundError(f"{path} has no tokenizer.json: copy it from the original checkpoint")
    tokenizer = _json(path / "tokenizer_config.json") if (path / "tokenizer_config.json").is_file() else {}
    if not any((path / name).is_file() for name in ("chat_template.jinja", "chat_template.json")) and not tokenizer.get(
        "chat_template"
    ):
        raise FileNotFoundError(
            f"{path} has no chat template: add the original checkpoint's chat_template.jinja, or chat_template.json"
        )
    special = _json(path / "special_tokens_map.json") if (path / "special_tokens_map.json").is_file() else {}
    if not tokenizer.get("pad_token") and not special.get("pad_token"):
        raise FileNotFoundError(
            f"{path}: tokenizer_config.json names no pad_token, which answers of several lengths are filled up with:"
            " LLaVA-1.5 has <pad>"
        )


def _check_weights(path: Path) -> None:
    files = sorted(path.glob("*.safetensors"))
    if not files:
        pickles = sorted(path.glob("*.bin"))
        what = (
            f"its weights are pickles ({pickles[0].name}), which may run code"
            if pickles
            else "it has no weights as safetensors"
        )
        raise FileNotFoundError(f"{path}: {what}: save it with transformers' save_pretrained as safetensors")
    if (index := path / "model.safetensors.index.json").is_file():
        named = set(_json(index).get("weight_map", {}).values())
        if missing := sorted(named - {file.name for file in files}):
            raise FileNotFoundError(
                f"{path} is not complete: it has no {missing[0]}, which {index.name} names: copy it again"
            )
    for file in files:
        _check_whole(file)


def _check_whole(file: Path) -> None:
    """Compare a safetensors file's size with what its header says."""
    cut = FileNotFoundError(f"{file} is cut off or no safetensors file: copy it again")
    size = file.stat().st_size
    with file.open("rb") as opened:
        if opened.read(len(LFS_POINTER)) == LFS_POINTER:
            raise FileNotFoundError(f"{file} is a git-LFS pointer and not the weights: run `git lfs pull` there")
        opened.seek(0)
        start = opened.read(_LENGTH.size)
        if len(start) < _LENGTH.size or (length := _LENGTH.unpack(start)[0]) > min(_LONGEST, size):
            raise cut
        try:
            header = json.loads(opened.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise cut from error
    if size != _LENGTH.size + length + max(ends, default=0):
        raise cut


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except ValueError as error:
        raise FileNotFoundError(f"{file} is not JSON: {error}: copy it again") from error
    if not isinstance(found, dict):
        raise FileNotFoundError(f"{file} is not a JSON object: copy it again")
    return found


def _locate(model: str) -> Path:
    """The directory that `model` names, whatever lies there."""
    if Path(model).is_dir():
        return Path(model)
    try:
        return Path(snapshot_download(model, allow_patterns=["*.json", "*.safetensors", "*.model", "*.jinja"]))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"{model!r} is no directory here, and the model hub does not give it: {error}"
        ) from error
