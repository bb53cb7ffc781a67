"""A PEFT adapter made elsewhere -> PEFT's two files as the engine takes them, or a refusal that names the obstacle.

The same language model goes by several names: `model.language_model.layers` in today's transformers,
`language_model.model.layers` in those before 4.52, `model.layers` in haotian-liu/LLaVA and where a language model was
trained by itself. All become the first. What the numbers mean is not touched.
"""

import json
import pickle
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from service.adapters.modules import CONFIG, UNSERVED, WEIGHTS, Shapes, check_tensors, unserved
from service.errors import AdapterRefused

PICKLE, WHOLE = "adapter_model.bin", "non_lora_trainables.bin"

_PAIR = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight")
_LINEAR = re.compile(
    r"(?:model\.language_model\.|language_model\.model\.|model\.)?"
    r"layers\.(?P<layer>\d+)\.(?P<part>(?:self_attn|mlp)\.\w+)"
)
# The first that a foreign tensor's name holds says what it is.
_FOREIGN = {
    "lora_magnitude_vector": f"DoRA: {UNSERVED['use_dora']}",
    "modules_to_save": f"modules_to_save: {UNSERVED['modules_to_save']}",
    "projector": "projector: the engine serves LoRA on LLaVA's language model only; a tuned projector is another base",
    "vision": "vision tower: the engine serves LoRA on LLaVA's language model only; name target modules that spare it",
    "lm_head": "vocabulary: the engine serves LoRA on the layers' linear modules only",
    "embed": "vocabulary: the engine serves LoRA on the layers' linear modules only",
    ".bias": f"bias: {UNSERVED['bias']}",
}


@dataclass(frozen=True, slots=True)
class Converted:
    """What a converted adapter is, for its manifest; `base` is what its maker called the base."""

    rank: int
    alpha: float
    targets: str
    peft: str
    base: str


def convert(source: Path, target: Path, linears: Shapes, max_rank: int) -> Converted:
    """Write the adapter in the directory `source` into `target`, judged against the base's `linears`.

    Raises:
        AdapterRefused: it cannot be served; the message names the features or tensors.
    """
    config = _config(source)
    _refuse_whole_weights(source)
    tensors = _tensors(source)
    modules = _modules(tensors)
    ranks, alphas = (_patterned(config.get(name) or {}, modules) for name in ("rank_pattern", "alpha_pattern"))
    plain = LoraConfig(
        r=config["r"],
        lora_alpha=config.get("lora_alpha", 8),  # PEFT's own default
        use_rslora=bool(config.get("use_rslora")),
        rank_pattern=ranks,
        alpha_pattern=alphas,
        target_modules=_targets(modules),
        base_model_name_or_path=config.get("base_model_name_or_path"),
        inference_mode=True,
    )
    plain.save_pretrained(str(target))  # `publish` adds the class that AutoPeftModel loads
    save_file({_name(key, modules): tensor for key, tensor in tensors.items()}, target / WEIGHTS, {"format": "pt"})
    check_tensors(target, linears, max_rank)
    made_by, base = (str(config.get(name) or "unknown") for name in ("peft_version", "base_model_name_or_path"))
    return Converted(max([plain.r, *ranks.values()]), float(plain.lora_alpha), str(plain.target_modules), made_by, base)


def _config(source: Path) -> dict[str, Any]:
    try:
        config: Any = json.loads((source / CONFIG).read_text())
        if config["peft_type"] != "LORA":
            raise AdapterRefused("features", f"{source} holds {config['peft_type']}: the engine serves LoRA only")
        if not isinstance(config["r"], int) or config["r"] < 1:
            raise ValueError(f"r is {config['r']!r}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AdapterRefused("files", f"{source / CONFIG} is not a PEFT LoRA configuration: {error!r}") from error
    if faults := unserved(config):
        raise AdapterRefused("features", f"{source} cannot be served; " + "; ".join(faults))
    return dict(config)


def _refuse_whole_weights(source: Path) -> None:
    """haotian-liu/LLaVA saves what it trained beside the LoRA, the projector above all, in a file of its own."""
    file = source / WHOLE
    if file.is_file() and (names := sorted(_unpickle(file))):
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise AdapterRefused(
            "features",
            f"{file} holds {', '.join(names[:3])}{more}: weights trained as a whole are part of a base checkpoint, "
            "and without them the LoRA is not what was trained; train it with the projector frozen",
        )


def _tensors(source: Path) -> dict[str, torch.Tensor]:
    if not (source / WEIGHTS).is_file() and (source / PICKLE).is_file():
        tensors = _unpickle(source / PICKLE)
    else:
        try:
            tensors = load_file(source / WEIGHTS)
        except (SafetensorError, OSError) as error:
            raise AdapterRefused("files", f"{source / WEIGHTS} is not a safetensors file: {error}") from error
    if not tensors:
        raise AdapterRefused("files", f"{source} holds no tensors")
    if packed := sorted(name for name, tensor in tensors.items() if not tensor.is_floating_point()):
        raise AdapterRefused(
            "features",
            f"{packed[0]!r} holds {tensors[packed[0]].dtype}: packed adapters are not served;"
            " save it as float16 or bfloat16",
        )
    return {name: _float(tensor).contiguous() for name, tensor in tensors.items()}


def _float(tensor: torch.Tensor) -> torch.Tensor:
    """Numbers of 8 bits as bfloat16, which holds each of them; the engine takes no shorter ones."""
    return tensor.to(torch.bfloat16) if tensor.element_size() == 1 else tensor


def _unpickle(file: Path) -> dict[str, torch.Tensor]:
    """Tensors of a .bin, with an unpickler that makes nothing else."""
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise AdapterRefused("files", f"{file} is not a file of tensors alone, and nothing else is loaded") from error
    if not isinstance(found, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in found.values()):
        raise AdapterRefused("files", f"{file} holds something else than tensors by name")
    return {str(name): tensor.clone() for name, tensor in found.items()}


def _modules(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Today's transformers' name of each module, by the name that the adapter's keys have for it."""
    modules: dict[str, str] = {}
    foreign: dict[str, list[str]] = {}
    for key in sorted(tensors):
        pair = _PAIR.fullmatch(key)
        linear = _LINEAR.fullmatch(pair["module"]) if pair else None
        if pair and linear:
            modules[pair["module"]] = f"model.language_model.layers.{linear['layer']}.{linear['part']}"
        else:
            kind = next((says for mark, says in _FOREIGN.items() if mark in key), "no module of a LLaVA known here")
            foreign.setdefault(kind, []).append(key)
    if foreign:
        named = "; ".join(f"{keys[0]!r} and {len(keys) - 1} more: {kind}" for kind, keys in foreign.items())
        raise AdapterRefused("features", f"tensors that cannot be served: {named}")
    if twice := [name for name, count in Counter(modules.values()).items() if count > 1]:
        raise AdapterRefused("keys", f"{twice[0]} is there twice, under an older and a newer name")
    return modules


def _name(key: str, modules: Mapping[str, str]) -> str:
    pair = _PAIR.fullmatch(key)
    assert pair  # _modules has refused any other
    return f"base_model.model.{modules[pair['module']]}.lora_{pair['side']}.weight"


def _patterned(patterns: Mapping[str, Any], modules: Mapping[str, str]) -> dict[str, Any]:
    """PEFT's patterns match the old names: the values they give, by new name."""
    keys = {new: get_pattern_key(patterns.keys(), old) for old, new in modules.items()}
    return {new: patterns[key] for new, key in keys.items() if key in patterns}


def _targets(modules: Mapping[str, str]) -> str:
    """One regular expression for exactly these modules: PEFT would add empty pairs to any other it matches."""
    layers: dict[str, list[str]] = {}
    for name in modules.values():
        layer, _, part = name.removeprefix("model.language_model.layers.").partition(".")
        layers.setdefault(part, []).append(layer)
    parts: dict[str, list[str]] = {}
    for part, numbers in sorted(layers.items()):
        parts.setdefault("|".join(sorted(numbers, key=int)), []).append(re.escape(part))
    return "|".join(rf".*language_model\.layers\.({numbers})\.({'|'.join(found)})" for numbers, found in parts.items())
