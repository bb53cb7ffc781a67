"""What PEFT can train and the engine cannot serve, by the name PEFT's configuration has for it, with the reason.

One table for two doors: `publish` refuses adapters that have it, `train` refuses options that ask for it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from trainer.errors import OptionError

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
    "use_bdlora": "the engine has no kernel for block-diagonal LoRA",
    "use_qalora": "the engine has no kernel for QA-LoRA",
    "init_lora_weights": "PiSSA, OLoRA, CorDA and LoftQ change the base's own weights; save with PEFT's "
    "path_initial_model_for_weight_conversion, which makes a plain LoRA of it",
}
# Ways to begin that leave the base as it is.
_PLAIN_STARTS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")


def unserved(config: Mapping[str, Any]) -> list[str]:
    """The features of a PEFT configuration that cannot be served, as "name: reason"."""
    return [f"{name}: {reason}" for name, reason in UNSERVED.items() if _asked(name, config.get(name))]


def refuse_options(arguments: Sequence[str]) -> None:
    """Refuse a command line that asks for such a feature, in either spelling.

    Raises:
        OptionError: naming the option and the reason.
    """
    for argument in arguments:
        option = argument.partition("=")[0]
        name = option.removeprefix("--").replace("-", "_")
        if option.startswith("--") and name in UNSERVED:
            raise OptionError(f"{option}: {UNSERVED[name]}; the trainer makes plain LoRA")


def _asked(name: str, value: Any) -> bool:
    if name == "init_lora_weights":
        return isinstance(value, str) and value.lower() not in _PLAIN_STARTS
    return bool(value) and (name, value) != ("bias", "none")
