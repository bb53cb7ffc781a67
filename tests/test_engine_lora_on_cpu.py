"""Several adapters in one batch on a CPU: what each token gets is what its own adapter alone gives."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.lora_on_cpu import GroupedLora, groups

pytestmark = pytest.mark.engine
SLOTS, RANK, INPUT, OUTPUTS = 3, 4, 8, (6, 5)


def one_by_one(
    slots: list[int], y: torch.Tensor, x: torch.Tensor, a: list[torch.Tensor], b: list[torch.Tensor]
) -> None:
    """The definition: y += B A x for each token of an adapter, and nothing for those of slot -1."""
    for token, slot in enumerate(slots):
        if slot >= 0:
            y[token] += torch.cat([b[part][slot, 0] @ (a[part][slot, 0] @ x[token]) for part in range(len(OUTPUTS))])


@given(
    slots=st.lists(st.integers(-1, SLOTS - 1), min_size=1, max_size=24),
    prefill=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60)
def test_a_mixed_batch_is_as_token_by_token(slots: list[int], prefill: bool, seed: int) -> None:
    torch.manual_seed(seed)
    a = [torch.randn(SLOTS, 1, RANK, INPUT) for _ in OUTPUTS]
    b = [torch.randn(SLOTS, 1, size, RANK) for size in OUTPUTS]
    x, y = torch.randn(len(slots), INPUT), torch.randn(len(slots), sum(OUTPUTS))
    wanted = y.clone()
    one_by_one(slots, wanted, x, a, b)
    lora = GroupedLora(64, 64, "cpu")
    ids = tuple(slot + 1 for slot in slots)  # vLLM numbers adapters from 1, and the base is 0
    mapping = SimpleNamespace(index_mapping=ids, prompt_mapping=ids, is_prefill=prefill)
    lora.update_metadata(mapping, [1, 2, 3], SLOTS, 100)
    got = y.clone()
    lora.add_lora_linear(got, x, tuple(a), tuple(b), 1.0, OUTPUTS)
    torch.testing.assert_close(got, wanted)
    base = torch.tensor(slots) < 0
    assert torch.equal(got[base], y[base])


def test_tokens_that_lie_together_are_a_slice() -> None:
    (first, together), (second, apart) = groups(torch.tensor([-1, 0, 0, 1, -1, 1]))
    assert (first, second) == (0, 1)
    assert together == slice(1, 3)
    assert isinstance(apart, torch.Tensor)
    assert apart.tolist() == [3, 5]
