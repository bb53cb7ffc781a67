"""`make bench-size`: what training and scoring LLaVA-1.5 take at 7B and 13B, by part, on tensors without content.

A line of JSON for each size, form of the base, and with and without checkpointing, in GB; no weights are needed. The
lines of `before` are for the design that the forest replaced, rebuilt here: weights in float32 under autocast, a
sequence for each image, a boolean mask, projected features; answers in float32, 128 rows at once. Its own code, run in
the same way (commit 948ee25's parent), gives the same figures.
"""

import json
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import torch
from peft.tuners.lora import LoraLayer
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPVisionConfig, DynamicCache, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from trainer.adapter.lora import add_lora
from trainer.config.training import TrainOptions
from trainer.evaluation.generate import KeyCache, room
from trainer.model.forward import embed
from trainer.model.precision import cast_weights
from trainer.training.memory_plan import Peak, Shape, fake_weights, need

# Hidden and intermediate size, layers, heads: as llava-hf publishes them.
_SIZES = {"7B": (4096, 11008, 32, 32), "13B": (5120, 13824, 40, 40)}
# GB of the cards that each form of the base is meant for; what scoring takes at once follows from it.
_CARDS = {("7B", "nf4"): 24, ("7B", "bfloat16"): 40, ("13B", "nf4"): 48, ("13B", "bfloat16"): 80}
_RANK, _TOKENS, _ANSWERS = 64, 8192, 2000
# An image, a question and an answer; the same tokens in sequences of one image each; rows scored at once before.
_ROW, _IMAGE, _ROWS_BEFORE = 640, 576, 128
_SEQUENCES = 12


class _Cost(NamedTuple):
    """Bytes: of frozen weights, of weights that learn, kept for backward, and the most that a step adds."""

    weights: int
    learns: int
    kept: int
    step: int


def main() -> int:
    """Print the table; returns the exit status."""
    for size in _SIZES:
        for line in (*_before(size), *_now(size)):
            print(json.dumps({"bench": "size", "size": size, "rank": _RANK, **line}), flush=True)
    return 0


def _now(size: str) -> Iterator[dict[str, Any]]:
    config = _config(size)
    for form in ("nf4", "bfloat16"):
        for checkpointing in (True, False):
            shape = Shape(1, _TOKENS, _ANSWERS, _SEQUENCES)
            found = need(
                config,
                _lora,
                shape,
                nf4=form == "nf4",
                checkpointing=checkpointing,
                on_gpu=True,
                tower_images=_SEQUENCES,
            )
            yield {
                "when": "now", "base": form, "tokens": _TOKENS, "checkpointing": checkpointing,
                **_gb(weights=found.weights, learns=found.learns, moments=found.moments, step=found.step,
                      total=found.total),
            }  # fmt: skip
        card = _CARDS[size, form] * 10**9
        rows = room(config.text_config, card - found.weights, torch.bfloat16) // _ROW
        step = _extrapolated(config, partial(_scored, rows=rows, bfloat16=True)).step
        yield {
            "when": "now", "base": form, "scoring": True, "card": card / 1e9, "rows_at_once": rows,
            **_gb(weights=found.weights, step=step, total=found.weights + step),
        }  # fmt: skip


def _before(size: str) -> Iterator[dict[str, Any]]:
    config = _config(size)
    for checkpointing in (True, False):
        found = _extrapolated(config, partial(_trained_before, checkpointing=checkpointing))
        moments = 2 * found.learns
        total = found.weights + found.learns + moments + found.step
        yield {
            "when": "before", "base": "float32", "tokens": _SEQUENCES * (_TOKENS // _SEQUENCES // 8 * 8),
            "checkpointing": checkpointing,
            **_gb(weights=found.weights, learns=found.learns, moments=moments, step=found.step, kept=found.kept,
                  total=total),
        }  # fmt: skip
    step = _extrapolated(config, partial(_scored, rows=_ROWS_BEFORE, bfloat16=False)).step
    yield {
        "when": "before", "base": "float32", "scoring": True, "rows_at_once": _ROWS_BEFORE,
        **_gb(weights=found.weights, step=step, total=found.weights + step),
    }  # fmt: skip


def _gb(**sizes: int) -> dict[str, float]:
    return {name: round(size / 1e9, 2) for name, size in sizes.items()}


def _extrapolated(config: Any, cost: Callable[[Any], _Cost]) -> _Cost:
    """`cost` of a model of all layers: of two, and for each further one what the third takes."""
    small = [deepcopy(config), deepcopy(config)]
    for layers, each in enumerate(small, start=2):
        each.text_config.num_hidden_layers = layers
    two, three = map(cost, small)
    rest = config.text_config.num_hidden_layers - 2
    return _Cost(*(a + rest * (b - a) for a, b in zip(two, three, strict=True)))


def _trained_before(config: Any, checkpointing: bool) -> _Cost:
    """A step as it was before the forest; fake tensors have no values, so answers are chosen by places."""
    llava = _empty(config)
    learns = _lora(llava)
    for module in learns.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = True  # PEFT's default, which kept a copy
    length = _TOKENS // _SEQUENCES // 8 * 8
    with FakeTensorMode():
        fake_weights(learns)
        llava.train()
        if checkpointing:
            llava.gradient_checkpointing_enable({"use_reentrant": False})
        weights = [weight for _, weight in learns.named_parameters()]
        ids = torch.zeros(_SEQUENCES, length, dtype=torch.long)
        features = torch.zeros(_SEQUENCES * _IMAGE, config.text_config.hidden_size)
        visible = torch.ones(_SEQUENCES, 1, length, length, dtype=torch.bool)
        answers = torch.zeros(_ANSWERS, dtype=torch.long)
        with Peak(weights) as peak, sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            with torch.autocast("cpu", torch.bfloat16):
                states = llava.model.language_model(
                    inputs_embeds=embed(llava, ids, features), attention_mask=visible, position_ids=ids, use_cache=False
                ).last_hidden_state
                logits = llava.lm_head(states.flatten(0, 1)[answers])
                loss = functional.cross_entropy(logits.float(), answers, reduction="sum")
            kept = peak.now
            loss.backward()  # type: ignore[no-untyped-call]
    frozen = sum(weight.nbytes for weight in weights if not weight.requires_grad)
    return _Cost(frozen, sum(weight.nbytes for weight in weights if weight.requires_grad), kept, peak.most)


def _scored(config: Any, rows: int, bfloat16: bool) -> _Cost:
    """The first forward pass of so many answers at once, which fills the cache of keys and values."""
    llava = cast_weights(_empty(config), bfloat16)
    with FakeTensorMode(), torch.inference_mode():
        fake_weights(llava)
        states = torch.zeros(rows, _ROW, config.text_config.hidden_size)
        visible = torch.zeros(rows, 1, _ROW, _ROW, dtype=torch.bool)
        places = torch.zeros(rows, _ROW, dtype=torch.long)
        with (
            Peak(weight for _, weight in llava.named_parameters()) as peak,
            sdpa_kernel(SDPBackend.FLASH_ATTENTION),
            torch.autocast("cpu", torch.bfloat16, enabled=bfloat16),
        ):
            cache = KeyCache(config.text_config, torch.bfloat16) if bfloat16 else DynamicCache()
            said = llava.model.language_model(
                inputs_embeds=states, attention_mask=visible, position_ids=places, past_key_values=cache, use_cache=True
            )
            llava.lm_head(said.last_hidden_state[:, -1])
    return _Cost(0, 0, 0, peak.most)


def _lora(llava: Any) -> Any:
    return add_lora(llava, TrainOptions.model_validate({"name": "x", "data": "x", "images": "x", "rank": _RANK}))


def _empty(config: Any) -> Any:
    with torch.device("meta"):
        return LlavaForConditionalGeneration(config)


def _config(size: str) -> Any:
    hidden, inner, layers, heads = _SIZES[size]
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    )
    text = LlamaConfig(
        vocab_size=32064,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=4096,
    )
    return LlavaConfig(vision_config=vision, text_config=text, image_token_index=32000)


if __name__ == "__main__":
    sys.exit(main())
