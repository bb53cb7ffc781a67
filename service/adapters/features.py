"""Which features of PEFT's configuration the engine serves; imports nothing heavy, so that command lines start fast."""

from collections.abc import Mapping
from typing import Any

# What PEFT can train and the engine cannot serve, by the name PEFT's configuration has for it, with the reason: some of
# it vLLM 0.32 refuses; the rest it would ignore without an error, and answer otherwise than PEFT does.
UNSERVED = {
    "use_dora": "DoRA rescales whole columns of the base's weights, which no LoRA kernel of the engine does",
    "bias": "the engine's LoRA kernels add no trained bias",
    "lora_bias": "the engine's LoRA kernels add no trained bias",
    "modules_to_save": "modules trained as a whole are part of a base checkpoint, not of an adapter beside others",
    "trainable_token_indices": "all adapters share the base's vocabulary",
    "target_parameters": "the engine has LoRA for linear modules only",
    "layer_replication": "all adapters share the base's layers",
    "alora_invocation_tokens": "the engine applies an adapter to a whole prompt, not from a token on",
    "arrow_config": "the engine applies one adapter to a question, not a mixture chosen by token",
    "kasa_config": "the engine has no kernel for KaSA's singular values",
    "monteclora_config": "the engine draws no weights at random, as MonteCLoRA does",
    "use_bdlora": "the engine has no kernel for block-diagonal LoRA",
    "use_qalora": "the engine has no kernel for QA-LoRA",
    "init_lora_weights": "PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA change the base's own weights; save with PEFT's "
    "path_initial_model_for_weight_conversion, which makes a plain LoRA of it",
}
# Values of init_lora_weights that leave the base's weights as they are.
_PLAIN_STARTS = ("gaussian", "eva", "orthogonal", "mica")
# The other fields of PEFT's LoraConfig up to 0.21: what is served anyway, and what mattered to the training alone.
_SERVED = {
    *("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules", "exclude_modules"),
    *("layers_to_transform", "layers_pattern", "peft_type", "task_type", "inference_mode", "base_model_name_or_path"),
    *("revision", "auto_mapping", "peft_version", "lora_dropout", "fan_in_fan_out", "megatron_config"),
    *("megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "velora_config"),
    *("qalora_group_size", "runtime_config", "ensure_weight_tying"),
}


def unserved(config: Mapping[str, Any]) -> list[str]:
    """The features of a PEFT configuration that cannot be served, as "name: reason".

    An unknown field, as of a later PEFT, is one of them where it is set, since it may change what a LoRA does.
    """
    named = [f"{name}: {reason}" for name, reason in UNSERVED.items() if _is_set(name, config.get(name))]
    unknown = [name for name, value in config.items() if value and name not in _SERVED and name not in UNSERVED]
    return named + [
        f"{name}: not a field of PEFT's LoRA known here ({str(config[name])[:60]}); where it matters to the training"
        " alone, take it out of adapter_config.json"
        for name in unknown
    ]


def _is_set(name: str, value: Any) -> bool:
    if name == "init_lora_weights":
        return isinstance(value, str) and value.lower() not in _PLAIN_STARTS
    return bool(value) and (name, value) != ("bias", "none")
