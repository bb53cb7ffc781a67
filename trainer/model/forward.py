"""The forward pass of training: a forest of token trees in, the loss or log-probabilities of its answer tokens out."""

from typing import Any

import torch
from torch.nn import functional
from transformers import LlavaForConditionalGeneration

from trainer.model.attention import mask
from trainer.model.forest import Batch


class TreeLlava(LlavaForConditionalGeneration):  # type: ignore[misc]  # transformers is untyped
    """LLaVA whose forward also takes the fields of a `Batch` and gives its `loss_sum`, or its `log_probs`.

    Training has to go through a model's own forward: that is where DDP, FSDP and DeepSpeed hook in.
    """

    # Whether its layers are given `Batch.pictured`, as a mixture's are.
    takes_pictured = False
    accepts_loss_kwargs = True  # ask transformers' Trainer for the step's number of answer tokens

    def forward(self, *args: Any, trees: torch.Tensor | None = None, each: bool = False, **inputs: Any) -> Any:
        """See transformers; with the fields of a `Batch` its `loss_sum`, or with `each` its `log_probs`."""
        if trees is None:
            return super().forward(*args, **inputs)
        return (log_probs if each else loss_sum)(self, Batch(trees=trees, **inputs))


def tower_states(llava: Any, pixels: torch.Tensor) -> torch.Tensor:
    """What the tower makes of pixels (images, 3, side, side): states (images, image tokens, tower's hidden size)."""
    given: list[torch.Tensor] = []
    # LLaVA chooses the tower's layer and tokens itself; what it chose is what the projector is called with.
    hook = llava.model.multi_modal_projector.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    with hook, torch.no_grad():
        llava.get_image_features(pixels.to(llava.device))
    return given[0]


def project(llava: Any, states: torch.Tensor) -> torch.Tensor:
    """The tower's states of images -> what stands in the image tokens' places, (images, image tokens, hidden size)."""
    projector = llava.model.multi_modal_projector
    weight = projector.linear_1.weight
    tokens: torch.Tensor = projector(states.to(weight.device, weight.dtype))
    return tokens


def embed(llava: Any, token_ids: torch.Tensor, features: torch.Tensor | None = None) -> torch.Tensor:
    """Token embeddings in float32, the image tokens' places taken by `features`, any shape of (…, hidden size).

    Shape (sequences, length, hidden size).
    """
    embeds: torch.Tensor = llava.get_input_embeddings()(token_ids).float()
    if features is None:
        return embeds
    places = (token_ids == llava.config.image_token_id).unsqueeze(-1)
    return embeds.masked_scatter(places, features.to(embeds))


def answer_logits(llava: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits where an answer token is predicted, and those tokens: (answers, vocabulary) and (answers,).

    The vocabulary projection runs for these positions only: it is most of a small model's work otherwise.
    """
    states = tower_states(llava, batch.pixels) if batch.pixels.numel() else batch.states
    hidden = llava.model.language_model(
        inputs_embeds=embed(llava, batch.token_ids, project(llava, states) if states.numel() else None),
        attention_mask=mask(batch, llava.model.language_model.config._attn_implementation),
        position_ids=batch.positions,
        use_cache=False,
        **({"pictured": batch.pictured} if getattr(llava, "takes_pictured", False) else {}),
    ).last_hidden_state
    return llava.lm_head(hidden.flatten(0, 1)[batch.answers]), batch.labels


def loss_sum(llava: Any, batch: Batch) -> torch.Tensor:
    """Cross-entropy summed over the batch's answer tokens, in nats."""
    logits, labels = answer_logits(llava, batch)
    return functional.cross_entropy(logits.float(), labels, reduction="sum")


def log_probs(llava: Any, batch: Batch) -> torch.Tensor:
    """The log-probability of each of the batch's answer tokens, (answers,), in nats."""
    logits, labels = answer_logits(llava, batch)
    return -functional.cross_entropy(logits.float(), labels, reduction="none")
