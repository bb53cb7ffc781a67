"""A small CLIP, taught by pictures and what is said of them: for tests, and to curate sets of drawn things.

It is saved in transformers' form, as any CLIP. Words are whole tokens: it knows those that it was taught, and digits.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch.nn import functional
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

_LONGEST = 24
# What draws a batch: the number of the step -> pictures and their texts.
Batches = Callable[[int], tuple[Sequence[Image.Image], Sequence[str]]]


def make_clip(
    folder: Path,
    batches: Batches,
    words: Sequence[str],
    steps: int,
    vision: dict[str, Any] | None = None,
    tower: dict[str, torch.Tensor] | None = None,
) -> float:
    """Train a CLIP by its contrastive loss and save it; returns the share of the last batch's pictures told apart.

    `vision` is the vision configuration [small, 32 pixels]; `tower` are weights of its vision model to begin with.
    """
    torch.manual_seed(0)
    tokenizer = _tokenizer(words)
    vision = vision or {
        "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    side = int(vision["image_size"])
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": _LONGEST, "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=48))
    if tower:
        model.vision_model.load_state_dict(tower, strict=False)
    processor = CLIPImageProcessor(size={"height": side, "width": side}, do_center_crop=False)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    right = 0.0
    for step in range(steps):
        pictures, texts = batches(step)
        tokens = tokenizer(list(texts), padding=True, truncation=True, max_length=_LONGEST, return_tensors="pt")
        found = model(**tokens, pixel_values=processor(images=list(pictures), return_tensors="pt").pixel_values)
        # Pictures of which the same is said are each other's match.
        same = torch.tensor([[float(one == other) for other in texts] for one in texts])
        target = same / same.sum(dim=1, keepdim=True)
        logits = found.logits_per_image
        loss = functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        right = float((same.gather(1, logits.argmax(dim=1, keepdim=True)) > 0).float().mean())
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return right


def _tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    special = ["<pad>", "<unk>", "<s>", "</s>"]
    vocabulary = {word: place for place, word in enumerate([*special, *dict.fromkeys(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", vocabulary["<s>"]), ("</s>", vocabulary["</s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
