"""What the names of an adapter's tensors mean: a module of LLaVA's language model and one side of its pair.

The same language model goes by several names: `model.language_model.layers` in today's transformers,
`language_model.model.layers` in those before 4.52, `model.layers` in haotian-liu/LLaVA and where a language model was
trained by itself. What wraps a model while it is trained adds words of its own, anywhere in a name.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from service.adapters.features import UNSERVED
from service.errors import AdapterRefused

# Of torch.compile, DDP and DataParallel, FSDP (and before torch 2.0), activation checkpointing, Lightning's DeepSpeed.
_WRAPPERS = frozenset(
    ("_orig_mod", "module", "_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module", "_forward_module")
)
_PEFT = "base_model.model."
# PEFT writes no name of the adapter; a whole model's state dict has one before `weight`.
_PAIR = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(?:\.(?P<adapter>[^.]+))?\.weight")
_LINEAR = re.compile(
    r"(?:(?:model|language_model)\.)*layers\.(?P<layer>\d+)\."
    r"(?P<part>self_attn\.[qkvo]_proj|mlp\.(?:gate|up|down)_proj)"
)
_FROZEN = (
    "train with it frozen: PEFT target_modules that spare it, unsloth finetune_vision_layers=False, LLaMA-Factory"
    " freeze_vision_tower and freeze_multi_modal_projector, ms-swift --freeze_vit and --freeze_aligner true"
)
# The first that a foreign tensor's name holds says what it is.
_FOREIGN = {
    "lora_magnitude_vector": f"DoRA: {UNSERVED['use_dora']}",
    "modules_to_save": f"modules_to_save: {UNSERVED['modules_to_save']}",
    "trainable_tokens": f"trainable_token_indices: {UNSERVED['trainable_token_indices']}",
    "_flat_param": "FSDP's flat parameters: save with fsdp_state_dict_type FULL_STATE_DICT",
    "base_layer": "the base's own weights: save the adapter alone with the model's save_pretrained",
    "projector": f"projector: the engine serves LoRA on LLaVA's language model only; {_FROZEN}",
    "vision": f"vision tower: the engine serves LoRA on LLaVA's language model only; {_FROZEN}",
    "lm_head": "vocabulary: the engine serves LoRA on the layers' linear modules only",
    "embed": "vocabulary: the engine serves LoRA on the layers' linear modules only",
    "v_head": "value head of a reward: it takes no part in an answer; save the adapter without it",
    "lora_down": "names of kohya's or diffusers' LoRA: save it in PEFT's form",
    "lora_up": "names of kohya's or diffusers' LoRA: save it in PEFT's form",
    "lora_unet": "names of kohya's or diffusers' LoRA: save it in PEFT's form",
    "linear_qkv": "Megatron's joined linears: export the adapter to PEFT's form there",
    "linear_fc": "Megatron's joined linears: export the adapter to PEFT's form there",
    "linear_proj": "Megatron's joined linears: export the adapter to PEFT's form there",
    "qkv_proj": "linears that are joined: LLaVA's q, k and v are apart",
    "gate_up_proj": "linears that are joined: LLaVA's gate and up are apart",
    "norm": "a norm: the engine serves LoRA on the layers' linear modules only",
    ".bias": f"bias: {UNSERVED['bias']}",
}
# A part of LoRA that a later PEFT may have.
_NEWER = re.compile(r"\.lora_(?![AB](?:\.|$))\w+")


@dataclass(frozen=True, slots=True)
class Part:
    """One side of a pair: `module` by today's transformers' name, `old` as its maker called it, `side` A or B."""

    module: str
    old: str
    side: str

    @property
    def key(self) -> str:
        """The tensor's name in PEFT's own form, which is the key it is written under."""
        return f"{_PEFT}{self.module}.lora_{self.side}.weight"


def meanings(keys: Iterable[str]) -> dict[str, Part]:
    """What each of `keys` is.

    Raises:
        AdapterRefused: one that cannot be served, all kinds of them named; two of one meaning; several adapters.
    """
    parts: dict[str, Part] = {}
    adapters: set[str] = set()
    foreign: dict[str, list[str]] = {}
    for key in sorted(keys):
        pair = _PAIR.fullmatch(_unwrapped(key))
        linear = _LINEAR.fullmatch(pair["module"]) if pair else None
        if pair and linear:
            parts[key] = Part(_module(linear), pair["module"], pair["side"])
            adapters.add(pair["adapter"] or "default")
        else:
            foreign.setdefault(kind_of(key), []).append(key)
    if foreign:
        named = "; ".join(f"{keys[0]!r} and {len(keys) - 1} more: {kind}" for kind, keys in foreign.items())
        raise AdapterRefused("features", f"tensors that cannot be served: {named}")
    if len(adapters) > 1:
        raise AdapterRefused(
            "keys",
            f"the file holds {len(adapters)} adapters, {', '.join(sorted(adapters))}: save one by itself with"
            " save_pretrained(…, selected_adapters=[…])",
        )
    if twice := [key for key, count in Counter(part.key for part in parts.values()).items() if count > 1]:
        raise AdapterRefused("keys", f"{twice[0]} is there twice, under an older and a newer name")
    return parts


def linear_of(key: str) -> tuple[str, str] | None:
    """The linear of the language model that a name begins with, by today's name, and what follows; None: with none."""
    name = _unwrapped(key)
    found = _LINEAR.match(name)
    if not found or name[found.end() :][:1] not in ("", "."):
        return None
    return _module(found), name[found.end() :]


def kind_of(key: str) -> str:
    """What a tensor is that is of no linear of the language model, and why it is not served."""
    if named := next((says for mark, says in _FOREIGN.items() if mark in key), None):
        return named
    if newer := _NEWER.search(key):
        return f"a part of LoRA that is not known here, {newer[0].removeprefix('.')}: save a plain LoRA"
    return "no module of a LLaVA known here"


def _module(linear: re.Match[str]) -> str:
    return f"model.language_model.layers.{int(linear['layer'])}.{linear['part']}"


def _unwrapped(key: str) -> str:
    """A tensor's name as PEFT has it within `base_model.model.`, without what wrappers added."""
    name = ".".join(word for word in key.split(".") if word not in _WRAPPERS)
    return name.rpartition(_PEFT)[2]
