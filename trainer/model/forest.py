"""Token trees, and the sequences they are packed into.

    [ prefix and image | question 1, answer 1 | question 2, answer 2 | … ][ text question, answer ][ prefix … ]

    [ prefix and image | question 1 | chosen 1 | rejected 1 | question 2 | … ]

A tree is an image's prefix and some of its rows, or one row of text. A token sees what is before it in its own branch
and in its branch's prefix, and its positions go on from the prefix, so no branch knows of another, and no tree either.
A row that is a pair of answers forks: each answer goes on from the question, and neither sees the other. The image's
states do not depend on the question (attention is causal and the image comes first), so they are computed once: loss
and gradient are, up to rounding, those of each row in a sequence of its own. A forest is some trees packed into
sequences of one length, which together hold at most so many tokens.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.errors import OptionError
from trainer.model.tokens import ANSWER, CHOSEN, END, REJECTED, Tokens

# Sequences are padded to a multiple of so many tokens: eights are what tensor cores want. On a CPU eights pad more and
# train no faster, but oneDNN keeps its buffers for each length (0.17 GB more in 60 updates of the embedded model).
MULTIPLE = 8 if torch.cuda.is_available() else 2
# What one more forest costs beside its tokens, in tokens. With 256 on two cores `make bench-train` took 1.12 times as
# long as with 1,000. A GPU starts some thousand kernels for a 7B's forest, taken to be 256 tokens (not measured).
FOREST_TOKENS = 256 if torch.cuda.is_available() else 1000
# In `Batch.branches` a question's number and this are its chosen answer's number, and twice this its rejected one's.
FORK = 1 << 20
# An update sees about so many images at least, however many rows each has: of fewer it learns less.
IMAGES = 12
# Lengths of a sequence that are tried, as multiples of the longest tree, where trees are dealt evenly.
_STRETCHES = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)


class Sight(Protocol):
    """What a step is given of images: the frozen tower's states of them, or the pixels that the tower is to read."""

    def __call__(self, images: Sequence[str], /) -> dict[str, torch.Tensor]:
        """`states` (images, image tokens, tower's hidden size), or `pixels` (images, 3, side, side)."""


@dataclass(frozen=True)
class Batch:
    """A forest as the model takes it: trees in sequences padded to one length.

    Shapes: `token_ids`, `positions`, `trees`, `branches` (sequences, length); `trees` numbers the trees, -1 is padding;
    `branches` is 0 in a prefix, a number for each row, and in a pair's answers that and a multiple of `FORK`. `answers`
    (answer tokens,) are places in the flattened batch whose next token is to be predicted and `labels` (answer tokens,)
    those tokens; a place may be there twice, for branches that begin with an answer. `states` (images, image tokens,
    tower's hidden size) in reading order; where they have to be computed in the step, `pixels` (images, 3, side, side)
    instead. `numbers` (answer tokens,), of pairs alone, are the places of `labels` among all answer tokens of the rows:
    see `Tokens.answer_owners`. `pictured` (sequences, length) says of each token whether its row has an image.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    trees: torch.Tensor
    branches: torch.Tensor
    answers: torch.Tensor
    labels: torch.Tensor
    states: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    pixels: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    numbers: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    pictured: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    def to(self, device: torch.device) -> "Batch":
        """A copy whose tensors are on `device`."""
        return Batch(**{name: tensor.to(device) for name, tensor in vars(self).items()})


@dataclass(frozen=True)
class Trees:
    """All trees of some rows: tree i holds the rows from `starts[i]` to `starts[i + 1]` of `rows`.

    `lengths` (trees,) counts the tokens, prefix included; `image` (trees,) is the place of its image, or -1.
    """

    tokens: Tokens
    rows: NDArray[np.int32]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    image: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.lengths)


def grow(tokens: Tokens, branches: int, budget: int | None = None) -> Trees:
    """Trees of at most `branches` rows and `budget` tokens each.

    Raises:
        OptionError: a row alone takes more than `budget`.
    """
    head = len(tokens.head) if tokens.images else 0
    lengths = tokens.lengths
    order = np.argsort(np.where(tokens.image < 0, len(tokens.images), tokens.image), kind="stable")
    starts, sizes, images = [0], list[int](), list[int]()
    image, size, count = -2, 0, 0
    for place, row in enumerate(order.tolist()):
        own, length = int(tokens.image[row]), int(lengths[row])
        fresh = own < 0 or own != image or count == branches or (budget is not None and size + length > budget)
        if fresh:
            if place:
                starts.append(place)
                sizes.append(size)
            image, size, count = own, head if own >= 0 else 0, 0
            images.append(own)
        size, count = size + length, count + 1
        if budget is not None and size > budget:
            raise OptionError(f"--tokens {budget}: a row and its image come to {size} tokens: give at least {size}")
    return Trees(
        tokens,
        order.astype(np.int32),
        np.array([*starts, len(order)], dtype=np.int64),
        np.array([*sizes, size], dtype=np.int64),
        np.array(images, dtype=np.int32),
    )


def bend_of(hidden_size: int, on_gpu: bool) -> float:
    """The `bend` of `pack` for a language model of this width.

    By multiplications, a token's products with a layer's weights take about 12 x size^2 (Kaplan et al. 2020, arXiv
    2001.08361, table 1) and those with the tokens it sees 2 x size each, so both cost the same at a length of 6 x size
    where they run at one speed. Attention under a mask is taken to run at a third of the speed of the others on a GPU
    (not measured). On a CPU it runs at a twelfth: on two cores the embedded model trained 1.8 times as fast in
    sequences of 136 tokens as in ones of 448.
    """
    return hidden_size * (2.0 if on_gpu else 0.5)


def pack(lengths: Sequence[int], budget: int, bend: float) -> list[list[list[int]]]:
    """Places of trees -> forests -> sequences, so that no forest comes to more than `budget` tokens, padding included.

    Of several numbers of sequences that is chosen whose tokens, padding included, cost least, where a token costs
    1 + length / `bend`: attention grows with the length, so `bend` is the length at which it costs as much as all else.
    A forest costs FOREST_TOKENS beside its tokens, so that sequences of unlike lengths go into forests of their own
    where that spares more padding than it costs.
    """
    if not lengths:
        return []
    best: tuple[float, list[list[list[int]]]] | None = None
    for number in _numbers(lengths):
        sequences = _dealt(lengths, number)
        if number < len(lengths) and _length(sequences, lengths) > budget:
            continue
        found = _cut(sequences, lengths, budget, bend)
        if best is None or found[0] < best[0]:
            best = found
    assert best
    return best[1]


def collate(trees: Trees, forest: Sequence[Sequence[int]], sight: Sight | None = None) -> Batch:
    """The batch of a forest, which is sequences of places in `trees`; without `sight` it shows no images."""
    length = _rounded(max((sum(int(trees.lengths[tree]) for tree in line) for line in forest), default=1))
    grid = np.zeros((5, max(len(forest), 1), length), dtype=np.int64)
    grid[0], grid[2] = trees.tokens.pad_id, -1
    answers, labels, images = [np.empty(0, np.int64)], [np.empty(0, np.int64)], list[str]()
    places_in_set = [np.empty(0, np.int64)]
    planted = set[int]()
    for line, sequence in enumerate(forest):
        at = 0
        for tree in sequence:
            end = at + int(trees.lengths[tree])
            places, said = _plant(trees, tree, grid[:, line, at:end])
            # An update may hold a tree twice, which must not see itself.
            grid[2, line, at:end] = tree if tree not in planted else len(trees) + len(answers)
            planted.add(tree)
            answers.append(places + (line * length + at))
            labels.append(said)
            if trees.tokens.paired:
                places_in_set += _numbered(trees, tree)
            if trees.image[tree] >= 0:
                images.append(trees.tokens.images[trees.image[tree]])
                grid[4, line, at:end] = 1
            at = end
    token_ids, positions, numbers, branches, pictured = torch.from_numpy(grid).unbind(0)
    shown = sight(images) if sight and images else {}
    return Batch(
        token_ids,
        positions,
        numbers,
        branches,
        torch.from_numpy(np.concatenate(answers)),
        torch.from_numpy(np.concatenate(labels)),
        numbers=torch.from_numpy(np.concatenate(places_in_set)),
        pictured=pictured.bool(),
        **shown,
    )


def _plant(trees: Trees, tree: int, grid: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Write a tree into its part of a batch; returns places whose next token is to be predicted, and those tokens."""
    tokens = trees.tokens
    head = tokens.head if trees.image[tree] >= 0 else np.empty(0, np.int64)
    grid[0, : len(head)], grid[1, : len(head)] = head, np.arange(len(head))
    places, labels, at = [], [], len(head)
    for branch, row in enumerate(trees.rows[trees.starts[tree] : trees.starts[tree + 1]].tolist(), start=1):
        own = slice(int(tokens.starts[row]), int(tokens.starts[row + 1]))
        ids, marks = tokens.ids[own].astype(np.int64), tokens.marks[own]
        end = at + len(ids)
        grid[0, at:end], grid[1, at:end], grid[3, at:end] = ids, np.arange(len(head), len(head) + len(ids)), branch
        said, ends = np.flatnonzero(marks & ANSWER), np.flatnonzero(marks & END)
        before = at + said - 1
        before[said == 0] = len(head) - 1  # a branch's first token follows the prefix
        if tokens.paired:
            _fork(marks, grid[:, at:end], before, said, at)
        places += [before, at + ends]
        labels += [ids[said], np.full(len(ends), tokens.end_id)]
        at = end
    return np.concatenate(places), np.concatenate(labels)


def _fork(
    marks: NDArray[np.uint8], grid: NDArray[np.int64], before: NDArray[np.int64], said: NDArray[np.int64], at: int
) -> None:
    """Put both answers of a pair behind its question: positions, branches and `before` in its part of a tree's grid.

    `at` is where that part begins in the tree.
    """
    first, second = int(np.argmax(marks & CHOSEN > 0)), int(np.argmax(marks & REJECTED > 0))
    grid[1, second:] -= second - first
    grid[3, first:second] += FORK
    grid[3, second:] += 2 * FORK
    before[said == second] = at + first - 1


def _numbered(trees: Trees, tree: int) -> list[NDArray[np.int64]]:
    """The places of a tree's answer tokens among those of all rows, in the order of `_plant`."""
    starts = trees.tokens.answer_starts
    rows = trees.rows[trees.starts[tree] : trees.starts[tree + 1]].tolist()
    return [np.arange(starts[row], starts[row + 1]) for row in rows]


def _numbers(lengths: Sequence[int]) -> set[int]:
    """Numbers of sequences to try: some that make all about as long, and some that leave each long tree alone.

    The latter are for images among texts: `_dealt` then puts the texts together in the sequences that have no image.
    """
    longest = max(lengths)
    short = [length for length in lengths if 2 * length <= longest]
    alike = {_parts(sum(lengths), longest * stretch) for stretch in _STRETCHES}
    shares = {max(short) * stretch for stretch in _STRETCHES} | {longest} if short else set()
    apart = {len(lengths) - len(short) + _parts(sum(short), share) for share in shares}
    return {min(number, len(lengths)) for number in alike | apart | {len(lengths)}}


def _parts(whole: int, part: float) -> int:
    return -(-whole // max(1, int(part)))


def _dealt(lengths: Sequence[int], number: int) -> list[list[int]]:
    """Trees -> so many sequences, the longest tree first, each to the shortest sequence."""
    sequences: list[list[int]] = [[] for _ in range(number)]
    shortest = [(0, place) for place in range(number)]
    for tree in sorted(range(len(lengths)), key=lambda tree: (-lengths[tree], tree)):
        length, place = shortest[0]
        sequences[place].append(tree)
        heapq.heapreplace(shortest, (length + lengths[tree], place))
    return [sequence for sequence in sequences if sequence]


def _cut(
    sequences: list[list[int]], lengths: Sequence[int], budget: int, bend: float
) -> tuple[float, list[list[list[int]]]]:
    """The cost of sequences cut into forests, and those: each at most `budget` tokens, but for one sequence with more.

    All sequences of one padded length are first taken as a class, the longest first. A forest may take several classes,
    which pads the shorter ones, or each may have its own, which costs `FOREST_TOKENS` more. The least sum of costs is
    found from the last class to the first, in as many steps as there are pairs of classes.
    """
    classes: dict[int, list[list[int]]] = {}
    for sequence in sorted(sequences, key=lambda sequence: -sum(lengths[tree] for tree in sequence)):
        classes.setdefault(_length([sequence], lengths), []).append(sequence)
    padded, members = list(classes), list(classes.values())
    # The least cost of all classes from a place on, and where the next cut is.
    least: list[tuple[float, int]] = [(0.0, len(members))] * (len(members) + 1)
    for first in reversed(range(len(members))):
        length, count, best = padded[first], 0, (math.inf, 0)
        most = max(1, budget // length)
        for end in range(first + 1, len(members) + 1):
            count += len(members[end - 1])
            cost = count * length * (1 + length / bend) + -(-count // most) * FOREST_TOKENS
            best = min(best, (cost + least[end][0], end))
        least[first] = best
    forests, place = list[list[list[int]]](), 0
    while place < len(members):
        end, most = least[place][1], max(1, budget // padded[place])
        together = [sequence for member in members[place:end] for sequence in member]
        forests += [together[at : at + most] for at in range(0, len(together), most)]
        place = end
    return least[0][0], forests


def _length(forest: Sequence[Sequence[int]], lengths: Sequence[int]) -> int:
    return _rounded(max(sum(lengths[tree] for tree in sequence) for sequence in forest))


def _rounded(length: int) -> int:
    return -(-length // MULTIPLE) * MULTIPLE
