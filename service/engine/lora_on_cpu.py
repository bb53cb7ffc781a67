"""Several adapters in one batch on a CPU: two matrix products for each adapter, and none for the base's own tokens.

vLLM 0.32's CPU kernels (lora/ops/torch_ops) copy an adapter's matrices once for every token and multiply token by
token: most of a prefill's time. And they take the index -1, which says "no adapter", for the last adapter slot: with
every slot in use the base's requests got that slot's adapter. vLLM calls this through its `vllm.general_plugins` entry
points in each of its processes; on a GPU it changes nothing.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms import current_platform

# Up to this width products in float32 are faster: a product in bfloat16 costs oneDNN 30 us before it multiplies
# anything (docs/measured/speed.md has both, by width and tokens).
NARROW = 1024


@dataclass(frozen=True)
class Grouped:
    """A batch's tokens that have an adapter: `tokens`, their numbers, those of one slot together.

    `parts` has (slot, first, end) for each slot: its tokens are tokens[first:end].
    """

    tokens: Tensor
    parts: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, slots: Tensor) -> "Grouped":
        """From the adapter slot of each token (tokens,); -1 is no adapter."""
        ordered, tokens = torch.sort(slots, stable=True)
        used, counts = torch.unique_consecutive(ordered, return_counts=True)
        parts, first = list[tuple[int, int, int]](), 0
        for slot, count in zip(used.tolist(), counts.tolist(), strict=True):
            if slot >= 0:
                parts.append((slot, first, first + count))
                first += count
        return cls(tokens[len(tokens) - first :], tuple(parts))


@dataclass(frozen=True)
class Matrices:
    """One adapter's matrices of one layer, without the zeros that fill a slot up to the largest rank.

    `ups` has a part's B.T (rank, output) for each part of the output. `downs` has a part's A.T (input, rank) for each;
    where it has one for several parts, that is all of theirs side by side.
    """

    versions: tuple[int, ...]
    downs: tuple[Tensor, ...]
    ups: tuple[Tensor, ...]

    @classmethod
    def of(cls, a: tuple[Tensor, ...], b: tuple[Tensor, ...], slot: int) -> "Matrices":
        """Those of a slot: copies in float32 where the layer is narrow, otherwise views."""
        ranks = [_rank(part[slot, 0]) for part in a]
        downs = [part[slot, 0, :rank].T for part, rank in zip(a, ranks, strict=True)]
        ups = [part[slot, 0, :, :rank].T for part, rank in zip(b, ranks, strict=True)]
        if a[0].shape[-1] <= NARROW:
            downs, ups = [torch.cat(downs, 1).float()], [up.float().contiguous() for up in ups]
        return cls(_versions(a, b), tuple(downs), tuple(ups))

    def into(self, parts: tuple[Tensor, ...], x: Tensor) -> None:
        """Write x @ A.T @ B.T into each of the parts (tokens, output); `x` is (tokens, input)."""
        if len(self.downs) == 1:
            lows = torch.split(x @ self.downs[0], [len(up) for up in self.ups], 1)
        else:
            lows = tuple(x @ down for down in self.downs)
        for part, low, up in zip(parts, lows, self.ups, strict=True):
            torch.mm(low, up, out=part)


class GroupedLora(PunicaWrapperCPU):  # type: ignore[misc]
    """vLLM's bookkeeping of which token has which adapter, with the products done by adapter."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._matrices: dict[tuple[int, int], Matrices] = {}

    def update_metadata(self, *arguments: Any, **named: Any) -> None:
        """Take the adapters of a new batch."""
        super().update_metadata(*arguments, **named)
        self._grouped = Grouped.of(self.token_lora_indices)

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
        tokens, parts = self._grouped.tokens, self._grouped.parts
        if not parts:
            return
        found = [(first, end, self._of(lora_a_stacked, lora_b_stacked, slot)) for slot, first, end in parts]
        chosen = x.index_select(0, tokens).to(found[0][2].downs[0].dtype)
        delta = chosen.new_empty(len(tokens), sum(output_slices))
        columns = torch.split(delta, list(output_slices), 1)
        for first, end, matrices in found:
            matrices.into(tuple(part[first:end] for part in columns), chosen[first:end])
        y.index_add_(0, tokens, delta.to(y.dtype), alpha=scale)

    def _of(self, a: tuple[Tensor, ...], b: tuple[Tensor, ...], slot: int) -> Matrices:
        """The slot's matrices, made again whenever vLLM wrote to any of these tensors."""
        kept = self._matrices.get((a[0].data_ptr(), slot))
        if kept is None or kept.versions != _versions(a, b):
            kept = self._matrices[a[0].data_ptr(), slot] = Matrices.of(a, b, slot)
        return kept


def _versions(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> tuple[int, ...]:
    return tuple(tensor._version for tensor in a + b)


def _rank(down: Tensor) -> int:
    """How many rows of (largest rank, input) hold anything."""
    filled = down.any(dim=1).nonzero()
    return int(filled[-1]) + 1 if len(filled) else 0


def use_on_cpu() -> None:
    """Let vLLM take GroupedLora where it runs on a CPU."""
    if current_platform.is_cpu():
        qualified = f"{GroupedLora.__module__}.{GroupedLora.__qualname__}"
        type(current_platform).get_punica_wrapper = classmethod(lambda _: qualified)
