"""Several adapters in one batch on a CPU: one matrix product for each adapter, and none for the base's own tokens.

vLLM 0.32's CPU kernels (lora/ops/torch_ops) copy an adapter's matrices once for every token and multiply token by
token: most of a prefill's time. And they take the index -1, which says "no adapter", for the last slot: with every slot
in use the base's requests got that slot's adapter. vLLM calls this through its `vllm.general_plugins` entry points in
each of its processes; on a GPU it changes nothing.
"""

from typing import Any

from torch import Tensor
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms import current_platform

Rows = slice | Tensor


class GroupedLora(PunicaWrapperCPU):  # type: ignore[misc]
    """vLLM's bookkeeping of which token has which adapter, with the products done by adapter."""

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Take the adapters of a new batch."""
        super().update_metadata(*args, **kwargs)
        self._groups = groups(self.token_lora_indices)

    def _apply_shrink(self, y: Tensor, x: Tensor, w_t_all: Tensor, scale: float) -> None:
        """`y = scale * x @ A.T` where a token has an adapter; `w_t_all` is (slots, 1, rank, input). `y` came zeroed."""
        for slot, rows in self._groups:
            y[rows] = (x[rows] @ w_t_all[slot, 0].T).to(y.dtype) * scale

    def _apply_expand(
        self, y: Tensor, x: Tensor, w_t_all: Tensor, y_offset: int, y_slice_size: int, add_inputs: bool = True
    ) -> None:
        """`y[:, slice] += x @ B.T` where a token has an adapter; `w_t_all` is (slots, 1, output, rank)."""
        part = y[:, y_offset : y_offset + y_slice_size]
        for slot, rows in self._groups:
            found = x[rows].to(y.dtype) @ w_t_all[slot, 0].T
            part[rows] = part[rows] + found if add_inputs else found


def groups(slots: Tensor) -> list[tuple[int, Rows]]:
    """Each adapter slot of a batch, and which of its tokens (tokens,) have it; -1 is no slot."""
    return [(slot, _rows(slots == slot)) for slot in sorted({*slots.tolist()} - {-1})]


def _rows(chosen: Tensor) -> Rows:
    """A slice where the tokens lie together, as they do for one adapter's requests: that copies nothing."""
    rows = chosen.nonzero().squeeze(1)
    first, last = int(rows[0]), int(rows[-1])
    return slice(first, last + 1) if last - first + 1 == len(rows) else rows


def use_on_cpu() -> None:
    """Let vLLM take GroupedLora where it runs on a CPU."""
    if current_platform.is_cpu():
        qualified = f"{GroupedLora.__module__}.{GroupedLora.__qualname__}"
        type(current_platform).get_punica_wrapper = classmethod(lambda _: qualified)
