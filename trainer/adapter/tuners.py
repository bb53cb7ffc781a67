"""Adapters of PEFT's other methods (LoHa, LoKr, VeRA, DoRA and more) -> a plain LoRA, and what that costs in logits.

The engine serves LoRA alone: W + B A. A method that adds a matrix D to a linear's W has as its best LoRA of rank r the
first r singular values of D, which PEFT's `convert_to_lora` takes. DoRA's D is found here: PEFT 0.21 converts DoRA
without its magnitudes.
"""

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftModel,
    PromptLearningConfig,
    convert_to_lora,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.adalora import AdaLoraLayer
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from tqdm import tqdm

from service.adapters.features import unserved
from service.adapters.modules import CONFIG, WEIGHTS, Shapes, read_small
from service.errors import AdapterRefused
from trainer.adapter.convert import BESIDE, MOST_CONFIG, exactly
from trainer.adapter.foreign.names import kind_of, linear_of
from trainer.adapter.foreign.tensors import read_tensors, refuse_whole_weights
from trainer.data.row import Row
from trainer.model.checkpoint import Checkpoint
from trainer.model.forest import Sight, collate, grow, pack
from trainer.model.forward import answer_logits
from trainer.model.tokens import encode

log = logging.getLogger(__name__)

# A and B of a linear.
Pair = tuple[torch.Tensor, torch.Tensor]

# The largest rank, and any other whole number of a configuration: they decide how much memory its method takes.
_MOST_RANK, _MOST_NUMBER = 1024, 16_384
# Bytes of tensors that are read: this share of those of the base's linears in float32, and BESIDE.
_MOST_SHARE = 0.5
# Singular values at the end that hold less than this share of the sum of all squares are left out.
_REST = 1e-6
# A LoRA is refused that is off by more than this share of what the adapter does to the base's logits; in bfloat16 by
# this share of the largest logit more, since each is rounded to 8 bits, by the adapter's own sums as by the LoRA's.
_TOLERATED, _ROUNDED = 0.1, 2**-7
# Fields of a configuration that say where it came from, and not what the method does.
_ABOUT = {"auto_mapping", "peft_version", "peft_type", "inference_mode", "revision", "task_type"}
# Rows whose logits are compared, places of their answers among them, and tokens of a forward pass.
_ROWS, _PLACES, _TOKENS = 32, 1024, 4096
# The answer behind questions whose right one is not known.
_ANSWER = "yes"


@dataclass(frozen=True, slots=True)
class Conversion:
    """The result of a conversion.

    `off` is the largest difference of a logit between the adapter as it was trained and the LoRA, `moved` the largest
    between base and adapter; both where the answers to the rows that were asked are predicted, in `precision`.
    """

    tuner: str
    rank: int
    off: float
    moved: float
    precision: str

    def __str__(self) -> str:
        """For a manifest, a card and the log."""
        off = f"logits off by at most {self.off:.1g}, where it moves them by {self.moved:.2g}"
        return f"{self.tuner} as a LoRA of rank {self.rank}, {off} ({self.precision})"


def tuner_of(folder: Path) -> str | None:
    """The method by which the adapter in `folder` was trained; None for what needs no conversion, or is no adapter.

    Raises:
        AdapterRefused: a method that learns no weights of linears.
    """
    config = _config(folder)
    kind = config.get("peft_type")
    if kind == "LORA":
        return "DoRA" if config.get("use_dora") is True else None
    made = PEFT_TYPE_TO_CONFIG_MAPPING.get(kind) if isinstance(kind, str) else None
    if made is None:
        return None
    if issubclass(made, PromptLearningConfig):
        raise AdapterRefused("features", f"{folder} holds {kind}, which learns a prompt and no weights: train a LoRA")
    return str(kind)


def to_lora(
    folder: Path,
    tuner: str,
    target: Path,
    checkpoint: Checkpoint,
    linears: Shapes,
    rows: Sequence[Row],
    sight: Sight,
    max_rank: int,
) -> Conversion:
    """Write a LoRA of at most `max_rank` that does what the adapter in `folder` does into the new directory `target`.

    `linears` are the checkpoint's that a LoRA may change. The first 32 of `rows`, whose images `sight` gives, are asked
    of the base, the adapter and the LoRA.

    Raises:
        AdapterRefused: PEFT cannot convert the method, its tensors do not fit the base, or the LoRA would be off by
            over a tenth of what the adapter does.
    """
    refuse_whole_weights(folder)
    config = _bounded(folder, _config(folder))
    size = sum(map(math.prod, linears.values()))
    tensors = _renamed(read_tensors(folder, int(4 * size * _MOST_SHARE) + BESIDE))
    modules = sorted({place[0] for key in tensors if (place := linear_of(key))} & linears.keys())
    shown = [row if row.answer else replace(row, answer=_ANSWER) for row in rows[:_ROWS]]
    base = _logits(checkpoint, shown, sight)
    with _wrapped(folder, config, tensors, modules, checkpoint) as model:
        adapter = _logits(checkpoint, shown, sight)
        largest = min(max_rank, *(min(linears[name]) for name in modules))
        pairs = _pairs(model, folder, tuner, largest)
    rank = max(_needed(b) for _, b in pairs.values())
    _save(target, {name: (a[:rank], b[:, :rank]) for name, (a, b) in pairs.items()}, rank, config)
    lora = PeftModel.from_pretrained(checkpoint.model, str(target)).eval()
    try:
        found = _logits(checkpoint, shown, sight)
    finally:
        lora.unload()
    precision = "bfloat16" if checkpoint.bfloat16 else "float32"
    conversion = Conversion(tuner, rank, _largest(found - adapter), _largest(adapter - base), precision)
    log.info("%s: %s", folder, conversion)
    if conversion.off > _TOLERATED * conversion.moved + _ROUNDED * _largest(base) * checkpoint.bfloat16:
        raise AdapterRefused(
            "rank",
            f"{folder} is {conversion}: that is another adapter; a larger --max-rank keeps more of it (the service"
            " needs the same VQA_MAX_LORA_RANK), or train a LoRA",
        )
    return conversion


def _config(folder: Path) -> dict[str, Any]:
    """The configuration, or nothing where `convert` will say what is wrong with it."""
    try:
        config = json.loads(read_small(folder / CONFIG, MOST_CONFIG))
    except (ValueError, RecursionError, OSError):
        return {}
    return config if isinstance(config, dict) else {}


def _bounded(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The configuration, if its method takes no more memory than a method should.

    Raises:
        AdapterRefused: a rank or another number is too large, or a feature of LoRA that no conversion knows.
    """
    if config["peft_type"] == "LORA" and (faults := unserved({**config, "use_dora": False})):
        raise AdapterRefused("features", f"{folder} cannot be converted; " + "; ".join(faults))
    ranks = config.get("rank_pattern") or {}
    numbers = {**config, **{f"rank_pattern {name}": rank for name, rank in ranks.items()}}
    for name, value in numbers.items():
        most = _MOST_RANK if name == "r" or name.startswith("rank_pattern ") else _MOST_NUMBER
        if isinstance(value, int) and value > most and not name.endswith(("_seed", "_key")):
            raise AdapterRefused("features", f"{folder / CONFIG}: {name:.60} is {value}, over {most}")
    return config


def _renamed(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors under the names that today's transformers give the linears; those that linears share keep theirs.

    Raises:
        AdapterRefused: tensors of other parts of a model.
    """
    found: dict[str, torch.Tensor] = {}
    for key, tensor in tensors.items():
        place = linear_of(key)
        if place is None and key.count(".") != 1:  # base_model.vera_A: shared
            raise AdapterRefused("features", f"tensors that cannot be served: {key!r}: {kind_of(key)}")
        found[f"base_model.model.{''.join(place)}" if place else key] = tensor
    return found


@contextmanager
def _wrapped(
    folder: Path,
    config: Mapping[str, Any],
    tensors: dict[str, torch.Tensor],
    modules: Sequence[str],
    checkpoint: Checkpoint,
) -> Iterator[Any]:
    """The checkpoint's model, answering through the adapter until the block ends."""
    # Targets by the maker's names would miss today's, or hit the vision tower's as well.
    placed = {
        "target_modules": exactly(modules),
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
    }
    method = PEFT_TYPE_TO_CONFIG_MAPPING[config["peft_type"]]
    known = method.__dataclass_fields__.keys() - _ABOUT
    fields = {
        name: value for name, value in {**config, **placed}.items() if name in known or (value and name not in _ABOUT)
    }
    try:
        model = get_peft_model(checkpoint.model, method(**fields))
    except Exception as error:  # whatever a configuration of somebody's makes of PEFT
        raise AdapterRefused("features", f"{folder / CONFIG} is not one that PEFT takes: {error!r:.300}") from error
    try:
        _load(folder, model, tensors)
        yield model.eval()
    finally:
        model.unload()


def _load(folder: Path, model: Any, tensors: dict[str, torch.Tensor]) -> None:
    wanted = get_peft_model_state_dict(model).keys()
    if missing := sorted(wanted - tensors.keys()):
        raise AdapterRefused(
            "keys", f"{folder} has no {missing[0]!r} and {len(missing) - 1} more that its method needs"
        )
    try:
        unexpected = set_peft_model_state_dict(model, tensors).unexpected_keys
    except RuntimeError as error:
        raise AdapterRefused("shape", f"{folder}: its tensors do not fit this base: {error!s:.300}") from error
    if unexpected:
        raise AdapterRefused(
            "keys", f"{folder}: {unexpected[0]!r} and {len(unexpected) - 1} more are of no use to its method"
        )


def _pairs(model: Any, folder: Path, tuner: str, rank: int) -> dict[str, Pair]:
    """A (rank, inputs) and B (outputs, rank) of each linear, by its name, in the order of their singular values.

    Raises:
        AdapterRefused: PEFT does not convert the method.
    """
    if tuner == "DoRA":
        return _of_layers(model, LoraLayer, _dora_matrix, rank)
    if tuner == "ADALORA":
        return _of_layers(model, AdaLoraLayer, lambda layer: layer.get_delta_weight("default").detach().float(), rank)
    if not model.supports_lora_conversion():
        raise AdapterRefused(
            "features",
            f"{folder} holds {tuner}, of which PEFT makes no LoRA: merge it into the base with PEFT's merge_and_unload"
            " and serve that as a base, or train a LoRA",
        )
    _, state = convert_to_lora(model, rank=rank, progressbar=True)
    sides: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in state.items():
        module, rest = linear_of(key) or ("", "")
        sides.setdefault(module, {})[rest.split(".")[1]] = tensor
    return {module: (pair["lora_A"], pair["lora_B"]) for module, pair in sides.items()}


def _of_layers(model: Any, kind: type, matrix: Callable[[Any], torch.Tensor], rank: int) -> dict[str, Pair]:
    """The pairs whose product is nearest to the `matrix` that each layer of a kind adds."""
    layers = {name: module for name, module in model.get_base_model().named_modules() if isinstance(module, kind)}
    pairs = {}
    for name, layer in tqdm(layers.items(), desc="to LoRA", unit="linear"):
        left, values, right = torch.linalg.svd(matrix(layer), full_matrices=False)
        pairs[name] = (right[:rank], left[:, :rank] * values[:rank])
    return pairs


def _dora_matrix(layer: Any) -> torch.Tensor:
    """W' - W, where W' = m (W + B A) / |W + B A|, norms taken by rows (Liu et al. 2024, equation 5)."""
    weight = layer.get_base_layer().weight.detach().float()
    directed = weight + layer.get_delta_weight("default").detach().float()
    magnitude = layer.lora_magnitude_vector["default"].weight.detach().float()
    matrix: torch.Tensor = (magnitude / directed.norm(dim=1)).unsqueeze(1) * directed - weight
    return matrix


def _needed(b: torch.Tensor) -> int:
    """How many columns of a B hold all but a millionth of its squares."""
    energy = b.double().square().sum(0)
    left = energy.sum() - energy.cumsum(0)
    return int((left > _REST * energy.sum()).sum()) + 1


def _save(target: Path, pairs: Mapping[str, Pair], rank: int, config: Mapping[str, Any]) -> None:
    base = config.get("base_model_name_or_path")
    plain = LoraConfig(r=rank, lora_alpha=rank, target_modules=exactly(pairs), base_model_name_or_path=base)
    plain.save_pretrained(str(target))
    named = {
        f"base_model.model.{name}.lora_{side}.weight": t
        for name, pair in pairs.items()
        for side, t in zip("AB", pair, strict=True)
    }
    save_file({name: tensor.contiguous() for name, tensor in named.items()}, target / WEIGHTS, {"format": "pt"})


def _logits(checkpoint: Checkpoint, rows: Sequence[Row], sight: Sight) -> torch.Tensor:
    """Logits where the answers to `rows` are predicted, the first of them: (places, vocabulary)."""
    trees = grow(encode(rows, checkpoint.prompt, checkpoint.image_shape[0], last=True), 1)
    with torch.inference_mode(), checkpoint.precision():
        found = [
            answer_logits(checkpoint.model, collate(trees, forest, sight).to(checkpoint.model.device))[0].float()
            for forest in pack(trees.lengths.tolist(), _TOKENS, 2.0 * checkpoint.hidden_size)
        ]
    return torch.cat(found)[:_PLACES]


def _largest(difference: torch.Tensor) -> float:
    return float(difference.abs().max())
