"""A LoRA on a base's language model: added to be trained, and removed again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType
from accelerate.state import AcceleratorState
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils.other import get_pattern_key
from transformers.integrations import unset_hf_deepspeed_config

from service.adapters.modules import TARGETS
from trainer.config.fields import LINEARS
from trainer.config.training import TrainOptions
from trainer.errors import OptionError
from trainer.model.checkpoint import Checkpoint


def add_lora(model: Any, options: TrainOptions, begun_from: Path | None = None) -> Any:
    """Wrap a LLaVA so that only a LoRA on its language model trains; tower and projector stay frozen.

    It is a new one, or that of PEFT's files in the directory `begun_from`.

    Raises:
        OptionError: a pattern of --rank-pattern or --alpha-pattern matches no module.
    """
    torch.manual_seed(options.seed)
    if begun_from:
        return _uncast(PeftModel.from_pretrained(model, str(begun_from), is_trainable=True))
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.dropout,
        use_rslora=options.rslora,
        rank_pattern=dict(options.rank_pattern),
        alpha_pattern=dict(options.alpha_pattern),
        target_modules=targets(options.targets),
        bias="none",
    )
    wrapped = _uncast(get_peft_model(model, config))
    for option, patterns in (("rank", options.rank_pattern), ("alpha", options.alpha_pattern)):
        for pattern in patterns:
            if not any(get_pattern_key([pattern], name) == pattern for name in wrapped.targeted_module_names):
                raise OptionError(
                    f"--{option}-pattern: {pattern!r} is no module's: it has to match the end of names such as"
                    f" {wrapped.targeted_module_names[0]}, from behind a dot"
                )
    return wrapped


def _uncast(lora: Any) -> Any:
    """Keep PEFT from copying a layer's input to float32, a copy that backward would keep: autocast casts it."""
    for module in lora.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = False
    return lora


def targets(linears: Sequence[str]) -> str:
    """PEFT's regular expression for those linears of each layer of the language model: TARGETS if they are all."""
    if set(linears) == set(LINEARS):
        return TARGETS
    return rf".*language_model\.layers\.\d+\.(self_attn|mlp)\.({'|'.join(linears)})"


def without_lora(checkpoint: Checkpoint, lora: Any, nf4: bool) -> Checkpoint:
    """`checkpoint` after training, the adapter off it; loaded again where FSDP or DeepSpeed took its model apart."""
    if AcceleratorState().distributed_type not in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        lora.unload()
        return checkpoint
    unset_hf_deepspeed_config()  # or transformers would load it in parts again
    return Checkpoint.load(checkpoint.path, nf4, checkpoint.bfloat16)
