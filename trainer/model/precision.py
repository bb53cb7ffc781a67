"""Which of a LLaVA's weights are held in bfloat16 and which in float32, and what this machine multiplies in."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import LlavaForConditionalGeneration

# Regular expressions for the names of weights that stay in float32: norms, and the tower's embeddings.
FLOAT32 = ("norm", "layrnorm", "vision_tower.*embeddings")


@contextmanager
def in_float32(*names: str) -> Iterator[None]:
    """Within the block LLaVA is loaded with the modules named so in float32, whatever is asked of the others."""
    before = LlavaForConditionalGeneration._keep_in_fp32_modules_strict
    LlavaForConditionalGeneration._keep_in_fp32_modules_strict = [name.replace(".*", "*") for name in names]
    try:
        yield
    finally:
        LlavaForConditionalGeneration._keep_in_fp32_modules_strict = before


def cast_weights(llava: Any, bfloat16: bool, learns: Sequence[str] = ()) -> Any:
    """Hold a LLaVA's weights in float32, or with `bfloat16` those in it that neither FLOAT32 nor `learns` name.

    Returns the same model.
    """
    for name, parameter in llava.named_parameters():
        exact = not bfloat16 or any(re.search(part, name) for part in (*FLOAT32, *learns))
        parameter.data = parameter.data.to(torch.float32 if exact else torch.bfloat16)
    if bfloat16:
        round_once(llava)
    return llava


def round_once(llava: Any) -> None:
    """Have the norms of each layer give bfloat16, to which each product behind them would round their output by itself.

    Losses are the same, and backward keeps one copy of that output instead of one for each of the linears behind it.
    """
    for layer in llava.model.language_model.layers:
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.register_forward_hook(lambda _, __, states: states.bfloat16())


def has_bfloat16() -> bool:
    """Whether this machine multiplies matrices in bfloat16 by itself."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    abilities = torch.cpu.get_capabilities()
    return bool(abilities.get("avx512_bf16") or abilities.get("amx_bf16"))
