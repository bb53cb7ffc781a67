"""A PEFT adapter made elsewhere -> PEFT's two files as the engine takes them, or a refusal that names the obstacle.

What its files and their names may look like is known to `trainer/adapter/foreign`. The tensors' numbers stay.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig
from peft.utils.other import get_pattern_key
from safetensors.torch import save_file

from service.adapters.features import unserved
from service.adapters.modules import CONFIG, WEIGHTS, Shapes, check_tensors, read_small
from service.errors import AdapterRefused
from trainer.adapter.foreign.folder import find
from trainer.adapter.foreign.names import Part, meanings
from trainer.adapter.foreign.tensors import read_tensors, refuse_pointer, refuse_whole_weights

# PEFT's alpha where a configuration names none; the most bytes of a configuration that is read (PEFT writes 2 KB).
_ALPHA, MOST_CONFIG = 8, 1_000_000
# Files of tensors may have so many times the bytes of the largest adapter in float32, and so many more bytes.
_TIMES, BESIDE = 4, 64 << 20


@dataclass(frozen=True, slots=True)
class Converted:
    """What a converted adapter is, for its manifest; `base` is what its maker called the base."""

    rank: int
    alpha: float
    targets: str
    peft: str
    base: str


@dataclass(frozen=True, slots=True)
class _Lora:
    """What PEFT's configuration says of a plain LoRA; the patterns are PEFT's, by the maker's names."""

    rank: int
    alpha: float
    rslora: bool
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    peft: str
    base: str | None


def convert(source: Path, target: Path, linears: Shapes, max_rank: int) -> Converted:
    """Write the adapter in `source` into the directory `target`, if its tensors fit the base's `linears`.

    Raises:
        AdapterRefused: it cannot be served; the message names the files, features or tensors, and the way out.
    """
    folder = find(source)
    lora = _read_config(folder)
    refuse_whole_weights(folder)
    tensors = read_tensors(folder, most_bytes(linears, max_rank))
    parts = meanings(tensors)
    modules = {part.old: part.module for part in parts.values()}
    ranks, alphas = _patterned(lora.ranks, parts.values()), _patterned(lora.alphas, parts.values())
    plain = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        use_rslora=lora.rslora,
        rank_pattern=ranks,
        alpha_pattern=alphas,
        target_modules=exactly(modules.values()),
        base_model_name_or_path=lora.base,
        inference_mode=True,
    )
    plain.save_pretrained(str(target))  # `write_version` adds the class that AutoPeftModel loads
    save_file({parts[key].key: tensor for key, tensor in tensors.items()}, target / WEIGHTS, {"format": "pt"})
    check_tensors(target, linears, max_rank)
    rank = max([lora.rank, *ranks.values()])
    return Converted(rank, float(lora.alpha), str(plain.target_modules), lora.peft, lora.base or "unknown")


def most_bytes(linears: Shapes, max_rank: int) -> int:
    """The most bytes that the tensors' files of an adapter for a base with these linears may have."""
    return _TIMES * 4 * max_rank * sum(map(sum, linears.values())) + BESIDE


def _read_config(folder: Path) -> _Lora:
    file = folder / CONFIG
    try:
        refuse_pointer(file)
        config: Any = json.loads(read_small(file, MOST_CONFIG))
    except (ValueError, RecursionError) as error:
        raise AdapterRefused("files", f"{file} is not a PEFT LoRA configuration: {error!r:.300}") from error
    if not isinstance(config, dict) or not isinstance(kind := config.get("peft_type"), str):
        mlx = isinstance(config, dict) and ("lora_parameters" in config or "fine_tune_type" in config)
        whose = "it is MLX's; convert the adapter to PEFT's form" if mlx else "it names no peft_type"
        raise AdapterRefused("files", f"{file} is not a PEFT LoRA configuration: {whose}")
    if kind != "LORA":
        raise AdapterRefused("features", f"{folder} holds {kind:.60}: the engine serves LoRA only")
    if faults := unserved(config):
        raise AdapterRefused(
            "features", f"{folder} cannot be served; " + "; ".join(faults) + _converted(folder, config)
        )
    try:
        return _lora(config)
    except ValueError as error:
        raise AdapterRefused("files", f"{file} is not a PEFT LoRA configuration: {error}") from error


def _converted(folder: Path, config: Mapping[str, Any]) -> str:
    """Where a plain LoRA lies that LLaMA-Factory wrote beside one that began with PiSSA, for an error; else ""."""
    plain = folder / "pissa_converted"
    begun = str(config.get("init_lora_weights")).startswith("pissa")
    return f"; {plain} is the plain LoRA of it: name that" if begun and (plain / CONFIG).exists() else ""


def _lora(config: Mapping[str, Any]) -> _Lora:
    """The fields that matter.

    Raises:
        ValueError: one has a value that PEFT would not write.
    """
    base = config.get("base_model_name_or_path")
    lora = _Lora(
        config.get("r", 0),
        config.get("lora_alpha", _ALPHA),
        config.get("use_rslora") or False,
        config.get("rank_pattern") or {},
        config.get("alpha_pattern") or {},
        str(config.get("peft_version") or "unknown")[:60],
        base if isinstance(base, str) and base else None,
    )
    for name, patterns, fits in (("rank_pattern", lora.ranks, _is_rank), ("alpha_pattern", lora.alphas, _is_alpha)):
        if not isinstance(patterns, dict) or not all(map(fits, patterns.values())):
            raise ValueError(f"{name} is {patterns!r:.100}")
        for pattern in patterns:
            _expression(name, pattern)
    for name, value, fit in (
        ("r", lora.rank, _is_rank(lora.rank)),
        ("lora_alpha", lora.alpha, _is_alpha(lora.alpha)),
        ("use_rslora", lora.rslora, isinstance(lora.rslora, bool)),
    ):
        if not fit:
            raise ValueError(f"{name} is {value!r:.100}")
    return lora


def _is_rank(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 20


def _is_alpha(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _expression(name: str, pattern: str) -> None:
    try:
        re.compile(rf"(.*\.)?({pattern})$")  # as PEFT asks it
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{name} has {pattern!r:.100}, which is no regular expression: {error}") from error


def _patterned(patterns: Mapping[str, Any], parts: Iterable[Part]) -> dict[str, Any]:
    """The values that PEFT's patterns, which match the maker's names, give to modules, by today's names."""
    keys = {part.module: get_pattern_key(list(patterns), part.old) for part in parts}
    return {new: patterns[key] for new, key in keys.items() if key in patterns}


def exactly(modules: Iterable[str]) -> str:
    """One regular expression for exactly these modules: PEFT would add empty pairs to any other it matches."""
    layers: dict[str, list[str]] = {}
    for name in modules:
        layer, _, part = name.removeprefix("model.language_model.layers.").partition(".")
        layers.setdefault(part, []).append(layer)
    parts: dict[str, list[str]] = {}
    for part, numbers in sorted(layers.items()):
        parts.setdefault("|".join(sorted(numbers, key=int)), []).append(re.escape(part))
    return "|".join(rf".*language_model\.layers\.({numbers})\.({'|'.join(found)})" for numbers, found in parts.items())
