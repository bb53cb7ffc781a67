"""Which linear modules the base's language model has, and whether an adapter's tensors land on them; reads files only.

vLLM would load an adapter whose tensor names match no module, report success, and serve the base model.
"""

import json
import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, LlavaForConditionalGeneration

from service.adapters.features import unserved
from service.errors import AdapterRefused
from service.members import CONFIG as CONFIG
from service.members import WEIGHTS as WEIGHTS

# LoRA on the language model only: vLLM 0.32 cannot serve LoRA on LLaVA's vision tower or projector. Plain names like
# "q_proj" would match the vision tower's attention too.
TARGETS = r".*language_model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"

# The largest configuration that is read; PEFT writes 2 KB.
_MOST_CONFIG = 1_000_000

# What errors advise about an adapter of another method.
_CONVERTED = "train a plain LoRA, or see what `python -m trainer publish` makes of it"

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")  # Python's pickles, which run code when they are read

Shapes = dict[str, tuple[int, int]]


def language_model_linears(checkpoint: Path) -> Shapes:
    """(output, input) sizes of every linear that an adapter may change, by transformers' name for it.

    Raises:
        OSError: the checkpoint's configuration cannot be read.
    """
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(AutoConfig.from_pretrained(checkpoint, local_files_only=True))
    return {
        name: (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and re.fullmatch(TARGETS, name)
    }


def check_tensors(directory: Path, linears: Shapes, max_rank: int) -> None:
    """Check that every tensor of an adapter belongs to a module of the base and fits it, and that not all do nothing.

    `linears` is what `language_model_linears` returns; `max_rank` the largest rank that is served.

    Raises:
        AdapterRefused: reasons `pickle`, `files`, `features`, `rank`, `keys`, `shape`, `values`, `no_effect`.
        OSError: the files cannot be read now, which says nothing of what they hold.
    """
    if pickles := sorted(file.name for file in directory.iterdir() if file.suffix in PICKLES):
        raise AdapterRefused("pickle", f"{directory / pickles[0]} may run code when it is read: send {WEIGHTS}")
    if missing := [name for name in (CONFIG, WEIGHTS) if not (directory / name).exists()]:
        raise AdapterRefused("files", f"{directory} was published without {missing[0]}")
    rank = _check_config(directory, max_rank)
    zero: set[str] = set()
    try:
        with safe_open(directory / WEIGHTS, framework="pt") as tensors:
            keys = sorted(tensors.keys())
            for key in keys:
                tensor = tensors.get_tensor(key)
                module = _check_tensor(key, tensor, linears, rank)
                if not tensor.any():
                    zero.add(module)
    except SafetensorError as error:
        raise AdapterRefused("files", f"{directory / WEIGHTS} is not a safetensors file: {error}") from error
    _check_pairs(keys)
    if len(zero) == len(keys) / 2:
        raise AdapterRefused(
            "no_effect", f"lora_A or lora_B is zero in every pair of {directory / WEIGHTS}: it would serve the base"
        )


def read_small(file: Path, most: int) -> bytes:
    """A file's content.

    Raises:
        OSError: it cannot be read.
        ValueError: it has over `most` bytes.
    """
    with file.open("rb") as opened:
        content = opened.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{file} has over {most} bytes")
    return content


def _check_config(directory: Path, max_rank: int) -> int:
    try:
        config = json.loads(read_small(directory / CONFIG, _MOST_CONFIG))
        rank = int(config["r"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise AdapterRefused("files", f"{directory / CONFIG} is not a PEFT LoRA configuration: {error!r}") from error
    if config.get("peft_type", "LORA") != "LORA":
        raise AdapterRefused(
            "features", f"it is {config['peft_type']!r}, and the engine serves LoRA only: {_CONVERTED}"
        )
    if faults := unserved(config):
        raise AdapterRefused("features", f"the engine does not serve {'; '.join(faults)}: {_CONVERTED}")
    ranks = [rank, *(config.get("rank_pattern") or {}).values()]
    if max(ranks) > max_rank:
        raise AdapterRefused(
            "rank", f"rank {max(ranks)} is over the {max_rank} this service allows (VQA_MAX_LORA_RANK)"
        )
    return rank if len(ranks) == 1 else 0


def _check_tensor(key: str, tensor: torch.Tensor, linears: Shapes, rank: int) -> str:
    """The module that a tensor belongs to; `rank` is the adapter's, 0 where its modules have several.

    Raises:
        AdapterRefused: reasons `keys`, `shape`, `features`, `values`.
    """
    match = re.fullmatch(r"base_model\.model\.(.+)\.lora_([AB])\.weight", key)
    if match is None or match[1] not in linears:
        raise AdapterRefused("keys", f"tensor {key!r} lands on no linear of the base's language model")
    output, input_ = linears[match[1]]
    rank = rank or min(tensor.shape)
    fitting = (rank, input_) if match[2] == "A" else (output, rank)
    if tuple(tensor.shape) != fitting:
        raise AdapterRefused("shape", f"tensor {key!r} is {tuple(tensor.shape)}, the base needs {fitting}")
    if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise AdapterRefused("features", f"tensor {key!r} is {tensor.dtype}: save it as float32, float16 or bfloat16")
    if not bool(tensor.isfinite().all()):
        raise AdapterRefused("values", f"tensor {key!r} holds NaN or infinity")
    return match[1]


def _check_pairs(keys: list[str]) -> None:
    sides = {side: {key.replace(f".lora_{side}.", ".") for key in keys if f".lora_{side}." in key} for side in "AB"}
    if lonely := sides["A"] ^ sides["B"]:
        raise AdapterRefused("keys", f"{sorted(lonely)[0]!r} has only one of lora_A and lora_B")
