"""The base checkpoint and the LoRA on its language model: loading, and the one forward pass that training takes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional
from transformers import AutoImageProcessor, LlavaForConditionalGeneration

from service.adapters.base import Base
from service.adapters.modules import TARGETS
from service.images import Preparation
from service.prompt import Prompt
from trainer.batches import IGNORED, Batch


@dataclass(frozen=True)
class Checkpoint:
    """A base checkpoint in memory: the model in float32, and what the service prepares its inputs with."""

    path: Path
    model: Any
    processor: Any
    base: Base
    prompt: Prompt
    preparation: Preparation

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Load the llava-hf checkpoint in a directory.

        Raises:
            FileNotFoundError: the directory is not a LLaVA checkpoint.
        """
        base, preparation = Base.of_checkpoint(path), Preparation.of_checkpoint(path)
        model = LlavaForConditionalGeneration.from_pretrained(path, dtype=torch.float32, local_files_only=True)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        processor = AutoImageProcessor.from_pretrained(path, local_files_only=True)
        return cls(path, model.eval().to(device), processor, base, Prompt(path), preparation)


def add_lora(model: Any, rank: int, alpha: float, dropout: float, seed: int) -> Any:
    """Wrap a LLaVA so that only a new LoRA on its language model trains; tower and projector stay frozen."""
    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=TARGETS, bias="none")
    return get_peft_model(model, config)


def embed(llava: Any, token_ids: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Token embeddings with the image tokens' places taken by `features`; shape (trees, length, hidden size)."""
    embeds: torch.Tensor = llava.get_input_embeddings()(token_ids)
    places = (token_ids == llava.config.image_token_id).unsqueeze(-1)
    return embeds.masked_scatter(places, features.to(embeds)) if len(features) else embeds


def answer_logits(llava: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits where an answer token is predicted, and those tokens: (answers, vocabulary) and (answers,).

    The vocabulary projection runs for these positions only: it is most of a small model's work otherwise.
    """
    hidden = llava.model.language_model(
        inputs_embeds=embed(llava, batch.token_ids, batch.features),
        attention_mask=batch.seen,
        position_ids=batch.positions,
        use_cache=False,
    ).last_hidden_state
    answers = batch.labels != IGNORED
    return llava.lm_head(hidden[answers]), batch.labels[answers]


def loss_sum(llava: Any, batch: Batch) -> torch.Tensor:
    """Cross-entropy summed over the batch's answer tokens, in nats."""
    logits, labels = answer_logits(llava, batch)
    return functional.cross_entropy(logits.float(), labels, reduction="sum")
