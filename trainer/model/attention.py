"""Which token of a forest sees which, in the two forms that attention takes: a dense mask, and FlexAttention's."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask

from trainer.model.forest import FORK, Batch

DENSE, BLOCKS = "sdpa", "flex_attention"
# On CPU plain products beat PyTorch's flash kernel under a mask while sequences are short (24 trees took 0.33 s instead
# of 0.42); they hold the weights of all pairs of tokens, though.
_SHORT = 1024


def visible(batch: Batch) -> torch.Tensor:
    """Whether a token (row) attends to another (column), of shape (sequences, length, length).

    It does to those of its tree that are not behind it and are of its branch, its branch's prefix or, from a pair's
    answer, its question. Padding sees padding alone.
    """
    trees, branches = batch.trees, batch.branches
    found = _sees(trees[:, :, None], trees[:, None, :], branches[:, :, None], branches[:, None, :])
    causal = torch.ones(trees.shape[1], trees.shape[1], dtype=torch.bool, device=trees.device).tril()
    allowed: torch.Tensor = found & causal
    return allowed


def mask(batch: Batch, form: str) -> Any:
    """`visible` as the attention of that name in transformers takes it.

    The dense one is added to the scores, (sequences, 1, length, length) in the precision of products: made once, and
    shared by all layers. A boolean one would be made a float one by each layer, and be kept by each for backward.
    """
    if form != BLOCKS:
        device = batch.trees.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
        allowed = visible(batch)[:, None]
        return torch.zeros_like(allowed, dtype=dtype).masked_fill_(~allowed, torch.finfo(dtype).min)
    trees, branches = batch.trees, batch.branches

    def sees(sequence: Any, _head: Any, at: Any, other: Any) -> Any:
        same = _sees(trees[sequence, at], trees[sequence, other], branches[sequence, at], branches[sequence, other])
        return same & (at >= other)

    sequences, length = trees.shape
    return create_block_mask(sees, sequences, None, length, length, device=str(trees.device))


def kernel(length: int) -> AbstractContextManager[Any]:
    """The quickest products for dense masks of that length on this device; forward and backward need the same."""
    if torch.cuda.is_available() or length > _SHORT:
        return nullcontext()
    return sdpa_kernel(SDPBackend.MATH)


def _sees(tree: Any, other_tree: Any, branch: Any, other_branch: Any) -> Any:
    question = branch % FORK  # of an answer of a pair; any other branch's own number
    return (tree == other_tree) & ((other_branch == branch) | (other_branch == 0) | (other_branch == question))
