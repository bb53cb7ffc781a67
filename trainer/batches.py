"""Rows -> token trees -> batches. All questions about one image share one sequence; the gradient is that of each alone.

    [ prefix and image | question 1, answer 1 | question 2, answer 2 | … ]

Each branch sees the prefix and itself, and its positions go on from the prefix, so no branch knows of another. The
image's states do not depend on the question (attention is causal and the image comes first), so computing them once
is exact. With one branch per tree this is the plain sequence.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Protocol

import torch

from service.prompt import Prompt
from trainer.data.rows import Row
from trainer.errors import DataError

# Few lengths: oneDNN keeps its buffers for each that it has seen (0.3 GB in 60 steps), and tensor cores want eights.
MULTIPLE = 8
IGNORED = -100


class ImageTokens(Protocol):
    """What the model's frozen half makes of an image: `Features`, or any mapping."""

    def __getitem__(self, image: str, /) -> torch.Tensor:
        """Projected image tokens of shape (image tokens, hidden size)."""


@dataclass(frozen=True, slots=True)
class Tree:
    """One sequence; `branches` is 0 in the prefix, `labels` the next token's id where an answer is predicted."""

    image: str | None
    token_ids: tuple[int, ...]
    positions: tuple[int, ...]
    branches: tuple[int, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """Trees padded to one length.

    Shapes: `token_ids`, `positions`, `labels` (trees, length); `seen` (trees, 1, length, length), True where a token
    (row) attends to another (column); `features` (image tokens of the whole batch, hidden size), in reading order.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor
    seen: torch.Tensor
    features: torch.Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same on `device`."""
        return Batch(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def grow(rows: list[Row], prompt: Prompt, image_tokens: int, questions: int, context: int | None = None) -> list[Tree]:
    """Group rows by image into trees of at most `questions` branches; a text row is a tree of its own.

    Raises:
        DataError: rows of more tokens than `context`, all of them; the service would refuse them too.
    """
    order = sorted(range(len(rows)), key=lambda index: (str(rows[index].image or ""), index))
    by_image = groupby((rows[index] for index in order), key=lambda row: row.image)
    parts = [(image, part) for image, group in by_image for part in _parts(list(group), questions if image else 1)]
    trees = [_tree(image, part, prompt, image_tokens) for image, part in parts]
    overlong = (_overlong(tree, part, context) for tree, (_, part) in zip(trees, parts, strict=True))
    if faults := [fault for found in overlong for fault in found]:
        raise DataError(faults)
    return trees


def collate(batch: list[Tree], features: ImageTokens, pad_id: int) -> Batch:
    """Pad trees on the right to the longest or a little more; padding sees itself alone and has no label."""
    length = -(-max(len(tree.token_ids) for tree in batch) // MULTIPLE) * MULTIPLE
    branches = _pad([tree.branches for tree in batch], length, -1)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same = branches[:, :, None] == branches[:, None, :]
    prefix = (branches[:, None, :] == 0) & (branches[:, :, None] >= 0)
    images = [features[tree.image] for tree in batch if tree.image]
    return Batch(
        token_ids=_pad([tree.token_ids for tree in batch], length, pad_id),
        positions=_pad([tree.positions for tree in batch], length, 0),
        labels=_pad([tree.labels for tree in batch], length, IGNORED),
        seen=((same | prefix) & causal)[:, None],
        features=torch.cat(images) if images else torch.empty(0),
    )


def _overlong(tree: Tree, rows: list[Row], context: int | None) -> Iterator[str]:
    last = dict(zip(tree.branches, tree.positions, strict=True))  # of each branch; the end token comes behind it
    for number, row in enumerate(rows, start=1):
        if context is not None and (tokens := last[number] + 2) > context:
            yield f"{row.place or row.id}: comes to {tokens} tokens, the base holds {context}: shorten it"


def _tree(image: str | None, rows: list[Row], prompt: Prompt, image_tokens: int) -> Tree:
    prefix: tuple[int, ...] = ()
    token_ids: list[int] = []
    positions: list[int] = []
    branches: list[int] = []
    labels: list[int] = []
    for number, row in enumerate(rows, start=1):
        prefix, question = _cut(
            prompt.encode(row.question, int(image is not None)), prompt.image_token_id, image_tokens
        )
        answer = prompt.encode_answer(row.question, row.answer, int(image is not None))
        if number == 1:
            token_ids += prefix
            positions += range(len(prefix))
            branches += [0] * len(prefix)
            labels += [IGNORED] * len(prefix)
        branch = [*question, *answer[:-1]]  # the last answer token, the end, is only ever predicted
        token_ids += branch
        positions += range(len(prefix), len(prefix) + len(branch))
        branches += [number] * len(branch)
        labels += [IGNORED] * (len(question) - 1) + list(answer)
    return Tree(image, tuple(token_ids), tuple(positions), tuple(branches), tuple(labels))


def _cut(token_ids: tuple[int, ...], image_id: int, image_tokens: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Expand the image's placeholder and cut behind it; a text prompt is all question."""
    if image_id not in token_ids:
        return (), token_ids
    at = token_ids.index(image_id)
    return (*token_ids[:at], *[image_id] * image_tokens), token_ids[at + 1 :]


def _parts(rows: list[Row], size: int) -> Iterator[list[Row]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _pad(sequences: list[tuple[int, ...]], length: int, value: int) -> torch.Tensor:
    return torch.tensor([[*sequence, *[value] * (length - len(sequence))] for sequence in sequences])
