"""Which trees make which update, and what each process takes of it.

That is a function of trees, seed and epoch alone, so that a run that is resumed gets the same updates. An update takes
trees in a shuffled order until it has its number of rows, or a little more or less so that updates are even; so an
epoch's number of updates is known from the rows alone.
"""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from trainer.config.training import LoopOptions
from trainer.errors import OptionError
from trainer.model.forest import Sight, Trees, collate, pack

_SPREAD = 1_000_003  # so that seed 0's second epoch is not seed 1's first


class Updates:
    """Updates of about `rows` rows each, from trees shuffled by seed and epoch; each tree once an epoch.

    With `apart` an update has images or text alone, as LLaVA groups by modality. With `text_share` that share of the
    rows of every update is text: an epoch meets each tree with an image once, and takes text trees in turns, each as
    often as every other but for one time.
    """

    def __init__(
        self, trees: Trees, rows: int, seed: int | None, apart: bool = False, text_share: float | None = None
    ) -> None:
        """With `seed` unset the order is that of the rows in every epoch.

        Raises:
            OptionError: a share of text where all rows are of one kind.
        """
        self._seed = seed
        self._rows = rows
        self._sizes = np.diff(trees.starts)
        kinds = [trees.image >= 0, trees.image < 0] if apart else [np.ones(len(trees), dtype=bool)]
        self._kinds = [found for kind in kinds if len(found := np.flatnonzero(kind))]
        self._last: tuple[int, list[NDArray[np.int64]]] = (-1, [])
        self._shared = None if text_share is None else _shared(trees, self._sizes, text_share)

    def __len__(self) -> int:
        """Updates in an epoch."""
        if self._shared:
            pictured, _, texts = self._shared
            return max(1, round((int(self._sizes[pictured].sum()) + texts) / self._rows))
        return sum(self._updates(kind) for kind in self._kinds)

    def epoch(self, epoch: int) -> list[NDArray[np.int64]]:
        """The updates of one epoch: for each an array of indices into the trees."""
        if self._last[0] != epoch:
            self._last = (epoch, self._drawn(epoch))
        return self._last[1]

    def _drawn(self, epoch: int) -> list[NDArray[np.int64]]:
        if self._shared:
            return self._mixed(epoch, *self._shared)
        if self._seed is None:
            return [update for kind in self._kinds for update in self._cut(kind)]
        rng = np.random.default_rng((self._seed % 2**32 * _SPREAD + epoch) % 2**63)
        updates = [update for kind in self._kinds for update in self._cut(rng.permutation(kind))]
        return [updates[place] for place in rng.permutation(len(updates))] if len(self._kinds) > 1 else updates

    def _mixed(
        self, epoch: int, pictured: NDArray[np.int64], textual: NDArray[np.int64], texts: int
    ) -> list[NDArray[np.int64]]:
        """Updates with their share of text: `texts` of the trees `textual` an epoch, which come in turns."""
        first, last = epoch * texts, (epoch + 1) * texts
        turns = range(first // len(textual), (last - 1) // len(textual) + 1)
        drawn = np.concatenate([self._random(turn, 1).permutation(textual) for turn in turns])
        offset = first - turns[0] * len(textual)
        kinds = self._random(epoch, 0).permutation(pictured), drawn[offset : offset + texts]
        parts = (np.split(kind, np.searchsorted(self._dealt(kind, len(self)), range(1, len(self)))) for kind in kinds)
        return [np.concatenate(both) for both in zip(*parts, strict=True)]

    def _random(self, number: int, stream: int) -> np.random.Generator:
        return np.random.default_rng((self._seed or 0, stream, number))

    def _dealt(self, trees: NDArray[np.int64], updates: int) -> NDArray[np.int64]:
        """The update of each tree: that which its first row falls into."""
        sizes = self._sizes[trees]
        dealt: NDArray[np.int64] = (np.cumsum(sizes) - sizes) * updates // sizes.sum()
        return dealt

    def _cut(self, trees: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Trees by update; a tree has far fewer rows than an update, so none is empty."""
        return np.split(trees, np.flatnonzero(np.diff(self._dealt(trees, self._updates(trees)))) + 1)

    def _updates(self, trees: NDArray[np.int64]) -> int:
        return max(1, round(int(self._sizes[trees].sum()) / self._rows))


def updates_of(trees: Trees, options: LoopOptions) -> Updates:
    """The updates that a training's options make of its trees."""
    return Updates(trees, options.rows_per_step, options.seed, options.group_by_modality, options.text_share)


def _shared(trees: Trees, sizes: NDArray[np.int64], share: float) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Trees with an image, trees of text, and how many of the latter an epoch has for that share of its rows."""
    pictured, textual = np.flatnonzero(trees.image >= 0), np.flatnonzero(trees.image < 0)
    if not len(pictured) or not len(textual):
        kind = "text" if len(textual) else "images"
        raise OptionError(f"--text-share {share:g}: mixes rows with images and rows of text; these are {kind} alone")
    return pictured, textual, max(1, round(int(sizes[pictured].sum()) * share / (1 - share)))


class Shares(Dataset[dict[str, Any]]):
    """What each of `processes` does in each update: its trees, dealt so that tokens are even, in forests.

    All processes have the same number of forests in an update, some empty if need be: they meet in each forward pass.
    Item (epoch * updates + update) * processes + rank.
    """

    def __init__(
        self, order: Updates, trees: Trees, budget: int, bend: float, sight: Sight | None, processes: int = 1
    ) -> None:
        self.updates, self.processes = order, processes
        self.trees, self._budget, self._bend, self._sight = trees, budget, bend, sight

    def __len__(self) -> int:
        return len(self.updates) * self.processes

    def __getitem__(self, item: int) -> dict[str, Any]:
        """`forests`, each the fields of a `Batch`; numbers of answer tokens (`answers`, a tensor), `rows`, `tokens`."""
        update, rank = divmod(item, self.processes)
        epoch, update = divmod(update, len(self.updates))
        shares = [self._forests(share) for share in self._deal(self.updates.epoch(epoch)[update].tolist())]
        mine = shares[rank] + [[]] * (max(map(len, shares)) - len(shares[rank]))
        batches = [collate(self.trees, forest, self._sight) for forest in mine]
        trees = [tree for forest in mine for sequence in forest for tree in sequence]
        return {
            "forests": [{each.name: getattr(batch, each.name) for each in fields(batch)} for batch in batches],
            "answers": torch.tensor(sum(len(batch.labels) for batch in batches)),
            "rows": sum(int(self.trees.starts[tree + 1] - self.trees.starts[tree]) for tree in trees),
            "tokens": sum(int(self.trees.lengths[tree]) for tree in trees),
        }

    def _deal(self, trees: list[int]) -> list[list[int]]:
        """Deal trees to processes: the longest first, each to the process that has the fewest tokens."""
        shares: list[list[int]] = [[] for _ in range(self.processes)]
        tokens = [0] * self.processes
        for tree in sorted(trees, key=lambda tree: (-self.trees.lengths[tree], tree)):
            rank = tokens.index(min(tokens))
            shares[rank].append(tree)
            tokens[rank] += int(self.trees.lengths[tree])
        return shares

    def _forests(self, trees: list[int]) -> list[list[list[int]]]:
        packed = pack([int(self.trees.lengths[tree]) for tree in trees], self._budget, self._bend)
        return [[[trees[place] for place in sequence] for sequence in forest] for forest in packed]


class Epochs(Sampler[int]):
    """Items of `Shares` of one epoch, in order; the callback of the loop says which."""

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose items come next."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._shares)

    def __iter__(self) -> Iterator[int]:
        first = self._epoch * len(self._shares)
        return iter(range(first, first + len(self._shares)))
