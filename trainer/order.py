"""The order in which trees are trained on: a pure function of lengths, seed and epoch, so that resuming is exact."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from trainer.batches import Tree

_SPREAD = 1_000_003  # so that seed 0's second epoch is not seed 1's first


class LengthOrder(Sampler[int]):
    """Indices shuffled so that `together` in a row have like lengths, text-only trees among themselves.

    This is LLaVA's grouping by modality and length.
    """

    def __init__(self, trees: Sequence[Tree], together: int, seed: int) -> None:
        longest = max(len(tree.token_ids) for tree in trees)
        self._lengths = [len(tree.token_ids) + (0 if tree.image else longest) for tree in trees]
        self._together = together
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed((self._seed * _SPREAD + self._epoch) % 2**32)
        return iter(get_length_grouped_indices(self._lengths, self._together, generator=generator))
