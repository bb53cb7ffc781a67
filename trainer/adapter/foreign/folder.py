"""The directory of PEFT's files that a path means, or what lies there instead; opens no file of tensors."""

import json
import logging
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from service.adapters.modules import CONFIG
from service.errors import AdapterRefused

log = logging.getLogger(__name__)

# A training's output may lie two folders deep: ms-swift writes output/v0-DATE/checkpoint-500.
_DEPTHS = (f"*/{CONFIG}", f"*/*/{CONFIG}")
_MOST = 1000
_SHOWN = 8
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_UNPACKED = re.compile(r"\.(zip|tar|tgz|gz|xz|bz2|7z|rar)$")
_GGUF = "is llama.cpp's form: name the PEFT adapter that it was made from"
_STATE = "save the adapter by itself with the model's save_pretrained, or Trainer's save_model"
# What is left by others where there is no adapter_config.json, by the files that show it; the first that fits is told.
_OTHERS = {
    "adapter_model*": f"has no {CONFIG}, where rank and alpha stand: copy it from where the adapter was trained",
    "adapters.safetensors": "is an adapter of MLX: convert it to PEFT's form",
    "*.gguf": f"holds a GGUF file, which {_GGUF}",
    "pytorch_lora_weights.*": "is a LoRA of diffusers, for a model that draws pictures",
    "mm_projector*": "holds LLaVA's projector alone: it is part of a base checkpoint, and no adapter",
    "*.distcp": f"holds the shards of FSDP: {_STATE}, or with fsdp_state_dict_type FULL_STATE_DICT",
    "pytorch_model_fsdp*": f"holds the shards of FSDP: {_STATE}, or with fsdp_state_dict_type FULL_STATE_DICT",
    "zero_to_fp32.py": f"holds the state of DeepSpeed: {_STATE} while DeepSpeed runs, which gathers it",
    "global_step*": f"holds the state of DeepSpeed: {_STATE} while DeepSpeed runs, which gathers it",
    "latest_checkpointed_iteration.txt": "is a checkpoint of Megatron: export the adapter to PEFT's form there",
    "*.ckpt": f"holds checkpoints of Lightning: {_STATE}",
    "model*.safetensors": "is a whole checkpoint, no adapter: it serves as a base, by the service's VQA_MODEL",
    "pytorch_model*.bin": "is a whole checkpoint, no adapter: save it as safetensors, and it serves as a base",
}


def find(source: Path) -> Path:
    """The directory of PEFT's files in `source`: itself, the one folder in it that has them, or its last checkpoint.

    Raises:
        AdapterRefused: there is none, or more than one; the message names them, or says what is there instead.
    """
    if not source.exists():
        raise AdapterRefused(
            "files",
            f"{source} is not there; an adapter on the hub is fetched first: hf download ORG/NAME --local-dir FOLDER",
        )
    if not source.is_dir():
        return _folder_of(source)
    if (source / CONFIG).is_file():
        if others := _adapters(source):
            log.info("%s: its own adapter is taken, none of the %d in folders beneath", source, len(others))
        return source
    return _only(source, _adapters(source))


def _folder_of(file: Path) -> Path:
    if (file.parent / CONFIG).is_file() and file.name.startswith("adapter_"):
        return file.parent
    if file.suffix == ".gguf":
        raise AdapterRefused("files", f"{file} {_GGUF}")
    if _UNPACKED.search(file.name):
        raise AdapterRefused("files", f"{file} is packed: unpack it and name the folder")
    raise AdapterRefused("files", f"{file} is a file: name the folder that holds it and {CONFIG}")


def _adapters(source: Path) -> list[Path]:
    found = [file.parent for depth in _DEPTHS for file in islice(source.glob(depth), _MOST) if file.is_file()]
    return sorted(found, key=lambda folder: (str(folder.parent), _step(folder), folder.name))


def _step(folder: Path) -> int:
    found = _CHECKPOINT.fullmatch(folder.name)
    return int(found[1]) if found else -1


def _only(source: Path, adapters: Sequence[Path]) -> Path:
    if not adapters:
        raise AdapterRefused("files", _instead(source))
    if len(adapters) == 1:
        log.info("%s: the adapter in it is %s", source, adapters[0])
        return adapters[0]
    if all(_step(folder) >= 0 for folder in adapters) and len({folder.parent for folder in adapters}) == 1:
        last = adapters[-1]
        log.info("%s: of %d checkpoints the last is taken, %s%s", source, len(adapters), last.name, _best(last))
        return last
    names = [str(folder.relative_to(source)) for folder in adapters]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    raise AdapterRefused("files", f"{source} holds several adapters: name one of {', '.join(names[:_SHOWN])}{more}")


def _best(last: Path) -> str:
    """What transformers' Trainer noted of its best checkpoint, where that is another."""
    try:
        best = json.loads((last / "trainer_state.json").read_text()).get("best_model_checkpoint")
    except (OSError, ValueError, AttributeError):
        return ""
    name = Path(best).name if isinstance(best, str) else last.name
    return "" if name == last.name else f"; its trainer found {name} better on held-out rows: name that one to have it"


def _instead(source: Path) -> str:
    for pattern, says in _OTHERS.items():
        if found := next(source.glob(pattern), None):
            return f"{source} {says} ({found.name} is there)"
    return f"{source} holds no {CONFIG}, nor do the folders in it: name the folder that PEFT's files are in"
