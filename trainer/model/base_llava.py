"""A LLaVA whose own weights learn, some of them or all but the tower's: its forward pass and its checkpoints."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from trainer.model.forest import Batch
from trainer.model.forward import TreeLlava, loss_sum, project

# The file from which transformers' Trainer resumes.
WEIGHTS = "model.safetensors"


class BaseLlava(TreeLlava):
    """LLaVA whose own weights train, some of them or all but the tower's.

    transformers' Trainer saves it by `save_pretrained` and resumes by `load_state_dict`; in transformers the two use
    different names. Here both use the model's own, and only what learns is saved.
    """

    def forward(self, *args: Any, trees: torch.Tensor | None = None, **inputs: Any) -> Any:
        """See transformers; with `trees`, and the other fields of a `Batch`, the loss summed over its answer tokens."""
        if trees is None:
            return super().forward(*args, **inputs)
        loss = loss_sum(self, Batch(trees=trees, **inputs))
        if inputs["states"].numel() or inputs["pixels"].numel():
            return loss
        # Text alone: every process needs a gradient, if of zeros, for every weight.
        size = self.model.multi_modal_projector.linear_1.in_features
        return loss + project(self, loss.new_zeros(1, size)).sum() * 0

    def save_pretrained(self, directory: Any, state_dict: dict[str, torch.Tensor] | None = None, **_: Any) -> None:
        """Write what learns as safetensors under this model's own names.

        `state_dict` has the tensors whole where processes share them out.
        """
        tensors = state_dict or self.state_dict()
        kept: dict[int, tuple[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            # A head that is the embeddings is one tensor under two names: it is kept once, under the first.
            if name not in self._keys_to_ignore_on_save and (tensor.data_ptr() or id(tensor)) not in kept:
                kept[tensor.data_ptr() or id(tensor)] = name, tensor.contiguous()
        Path(directory).mkdir(parents=True, exist_ok=True)
        save_file(dict(kept.values()), Path(directory) / WEIGHTS, {"format": "pt"})


def unfreeze(llava: Any, parts: Sequence[str]) -> Any:
    """Have those parameters of a LLaVA learn whose names hold one of `parts`; returns it, now a `BaseLlava`."""
    llava.__class__ = BaseLlava
    for name, parameter in llava.named_parameters():
        parameter.requires_grad = any(part in name for part in parts)
    llava._keys_to_ignore_on_save = {name for name in llava.state_dict() if not any(part in name for part in parts)}
    return llava
