"""`make bench-size`: what training LLaVA-1.5 takes at 7B and 13B, by part, found on tensors without content.

A line of JSON for each size, form of the base, and with and without checkpointing; in GB. No weights are needed.
"""

import json
import sys
from functools import partial
from typing import Any

from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

from trainer.config import TrainOptions
from trainer.model import add_lora
from trainer.plan import Shape, need

# Hidden and intermediate size, layers, heads: as llava-hf publishes them.
_SIZES = {"7B": (4096, 11008, 32, 32), "13B": (5120, 13824, 40, 40)}
_FORMS: dict[str, dict[str, Any]] = {"nf4": {"nf4": True}, "bfloat16": {}, "float32": {"bfloat16": False}}


def main() -> int:
    """Print the table; returns the exit status."""
    options = TrainOptions.model_validate({"name": "x", "data": "x", "images": "x", "rank": 64})
    for size in _SIZES:
        for form, how in _FORMS.items():
            for checkpointing in (True, False):
                found = need(
                    _config(*_SIZES[size]),
                    partial(add_lora, options=options),
                    Shape(1, 8192, 2000),
                    checkpointing=checkpointing,
                    on_gpu=True,
                    **how,
                )
                parts = {
                    name: round(getattr(found, name) / 1e9, 2) for name in ("weights", "learns", "moments", "step")
                }
                line = {"bench": "size", "size": size, "base": form, "rank": 64, "tokens": 8192}
                print(
                    json.dumps({**line, "checkpointing": checkpointing, **parts, "total": round(found.total / 1e9, 2)})
                )
    return 0


def _config(hidden: int, inner: int, layers: int, heads: int) -> Any:
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
