"""Several adapters in one batch on a CPU: two matrix products for each adapter, and none for the base's own tokens.

vLLM 0.32's CPU kernels (lora/ops/torch_ops) copy an adapter's matrices once for every token and multiply token by
token: most of a prefill's time. And they take the index -1, which says "no adapter", for the last adapter slot: with
every slot in use the base's requests got that slot's adapter. vLLM calls this through its `vllm.general_plugins` entry
points in each of its processes; on a GPU it changes nothing.
"""

from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms import current_platform

# Up to this width products in float32 are faster: a product in bfloat16 costs oneDNN 30 us before it multiplies
# anything (docs/measured/speed.md has both, by width and tokens).
NARROW = 1024
# Tokens that lie side by side and have one adapter are a prompt's if there are more than this.
_FEW = 8


@dataclass(frozen=True)
class Grouped:
    """A step's tokens that have an adapter.

    `runs` has (slot, first, end) of each prompt: its tokens are those from `first` to before `end`. `tokens` are the
    numbers of all others, those of one slot together, and `parts` has (slot, first, end) of each slot among them. Where
    they are multiplied at once there are no parts, but a rectangle of one row for each slot there is: `rectangle`
    (slots x longest row,) has the number of a token in each place, and that of any where a row is shorter; `places`
    says which place is whose.
    """

    runs: tuple[tuple[int, int, int], ...]
    tokens: Tensor
    parts: tuple[tuple[int, int, int], ...]
    rectangle: Tensor
    places: Tensor

    @classmethod
    def of(cls, of_tokens: Tensor, slots: int) -> "Grouped":
        """From the adapter slot of each token (tokens,), where -1 is no adapter, and how many slots there are.

        Those outside of prompts go at once if they have at least half of the slots: the product reads the matrices of
        every slot.
        """
        used, counts = torch.unique_consecutive(of_tokens, return_counts=True)
        runs, others, first = list[tuple[int, int, int]](), dict[int, list[int]](), 0
        for slot, count in zip(used.tolist(), counts.tolist(), strict=True):
            if slot >= 0 and count > _FEW:
                runs.append((slot, first, first + count))
            elif slot >= 0:
                others.setdefault(slot, []).extend(range(first, first + count))
            first += count
        parts, end = list[tuple[int, int, int]](), 0
        for slot, its in others.items():
            parts.append((slot, end, end := end + len(its)))
        tokens = torch.tensor(list(chain(*others.values())), dtype=torch.long)
        if 2 * len(others) < slots:
            return cls(tuple(runs), tokens, tuple(parts), tokens[:0], tokens[:0])
        longest = max(map(len, others.values()))
        places = torch.tensor([slot * longest + place for slot, its in others.items() for place in range(len(its))])
        rectangle = torch.zeros(slots * longest, dtype=torch.long).index_copy_(0, places, tokens)
        return cls(tuple(runs), tokens, (), rectangle, places)


@dataclass(frozen=True)
class Matrices:
    """The matrices of one layer, of all slots, up to the largest rank that any of them has there.

    `ups` has a part's B.T (slots, rank, output) for each part of the output. `downs` has a part's A.T (slots, input,
    rank) for each; where it has one for several parts, that is all of theirs side by side.
    """

    versions: tuple[int, ...]
    downs: tuple[Tensor, ...]
    ups: tuple[Tensor, ...]

    @classmethod
    def of(cls, a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> "Matrices":
        """From vLLM's (slots, 1, rank, input) and (slots, 1, output, rank): copies in float32 of a narrow layer.

        Of a wide one they are views, in their own precision.
        """
        ranks = [_rank(part) for part in a]
        downs = [part[:, 0, :rank].mT for part, rank in zip(a, ranks, strict=True)]
        ups = [part[:, 0, :, :rank].mT for part, rank in zip(b, ranks, strict=True)]
        if a[0].shape[-1] <= NARROW:
            downs, ups = [torch.cat(downs, 2).float().contiguous()], [up.float().contiguous() for up in ups]
        return cls(_versions(a, b), tuple(downs), tuple(ups))

    def alone(self, slot: int, x: Tensor, parts: tuple[Tensor, ...]) -> None:
        """Write x @ A.T @ B.T of one slot into each of the parts (tokens, output); `x` is (tokens, input)."""
        for part, low, up in zip(parts, self._lows(x, slot), self.ups, strict=True):
            torch.mm(low, up[slot], out=part)

    def added(self, slot: int, x: Tensor, parts: tuple[Tensor, ...], scale: float) -> None:
        """Add scale * x @ A.T @ B.T of one slot to each of the parts, which are in the precision of the matrices."""
        for part, low, up in zip(parts, self._lows(x, slot), self.ups, strict=True):
            part.addmm_(low, up[slot], alpha=scale)

    def together(self, x: Tensor) -> Tensor:
        """X @ A.T @ B.T of all slots at once, (slots, tokens, all parts' outputs); `x` is (slots, tokens, input)."""
        return torch.cat([low @ up for low, up in zip(self._lows(x, slice(None)), self.ups, strict=True)], -1)

    def _lows(self, x: Tensor, slots: int | slice) -> tuple[Tensor, ...]:
        """The x @ A.T of each part, (..., rank)."""
        if len(self.downs) == 1:
            return torch.split(x @ self.downs[0][slots], [up.shape[1] for up in self.ups], -1)
        return tuple(x @ down[slots] for down in self.downs)


class GroupedLora(PunicaWrapperCPU):  # type: ignore[misc]
    """vLLM's bookkeeping of which token has which adapter, with the products done by adapter."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._matrices: dict[int, Matrices] = {}

    def update_metadata(self, mapping: Any, lora_index_to_id: list[int | None], *others: Any, **named: Any) -> None:
        """Take the adapters of a new batch; `lora_index_to_id` has the id of the adapter in each slot."""
        super().update_metadata(mapping, lora_index_to_id, *others, **named)
        self._grouped = Grouped.of(self.token_lora_indices, len(lora_index_to_id))

    def add_lora_linear(
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: tuple[Tensor, ...],
        lora_b_stacked: tuple[Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **_: Any,
    ) -> None:
        """`y[:, part] += scale * x @ A.T @ B.T` for each part of the output, where a token has an adapter.

        `y` is (tokens, sum of output_slices), `x` (tokens, input); `A` of a part is (slots, 1, rank, input), `B` is
        (slots, 1, output, rank). The sum is rounded to y's precision once.
        """
        grouped = self._grouped
        if not grouped.runs and not len(grouped.tokens):
            return
        matrices = self._of(lora_a_stacked, lora_b_stacked)
        dtype = matrices.downs[0].dtype
        sums = torch.split(y, list(output_slices), 1)
        for slot, first, end in grouped.runs:
            its = x[first:end].to(dtype)
            if y.dtype == dtype:
                matrices.added(slot, its, tuple(part[first:end] for part in sums), scale)
            else:
                delta = its.new_empty(end - first, y.shape[1])
                matrices.alone(slot, its, torch.split(delta, list(output_slices), 1))
                y[first:end].add_(delta.to(y.dtype), alpha=scale)
        if grouped.parts:
            chosen = x.index_select(0, grouped.tokens).to(dtype)
            delta = chosen.new_empty(len(chosen), sum(output_slices))
            columns = torch.split(delta, list(output_slices), 1)
            for slot, first, end in grouped.parts:
                matrices.alone(slot, chosen[first:end], tuple(part[first:end] for part in columns))
            y.index_add_(0, grouped.tokens, delta.to(y.dtype), alpha=scale)
        elif len(grouped.tokens):
            rows = x.index_select(0, grouped.rectangle).to(dtype).view(len(matrices.ups[0]), -1, x.shape[1])
            delta = matrices.together(rows).flatten(0, 1).index_select(0, grouped.places)
            y.index_add_(0, grouped.tokens, delta.to(y.dtype), alpha=scale)

    def _of(self, a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> Matrices:
        """The layer's matrices, made again whenever vLLM wrote to any of these tensors."""
        kept = self._matrices.get(a[0].data_ptr())
        if kept is None or kept.versions != _versions(a, b):
            kept = self._matrices[a[0].data_ptr()] = Matrices.of(a, b)
        return kept


def _versions(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> tuple[int, ...]:
    return tuple(tensor._version for tensor in a + b)


def _rank(downs: Tensor) -> int:
    """How many rows of (slots, 1, largest rank, input) hold anything in any slot."""
    filled = downs.any(dim=3).any(dim=0).flatten().nonzero()
    return int(filled[-1]) + 1 if len(filled) else 0


def use_on_cpu() -> None:
    """Let vLLM take GroupedLora where it runs on a CPU."""
    if current_platform.is_cpu():
        qualified = f"{GroupedLora.__module__}.{GroupedLora.__qualname__}"
        type(current_platform).get_punica_wrapper = classmethod(lambda _: qualified)
