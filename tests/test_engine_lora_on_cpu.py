"""Several adapters in one batch on a CPU: what each token gets is what its own adapter alone gives."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.lora_on_cpu import NARROW, Grouped, GroupedLora

pytestmark = pytest.mark.engine
SLOTS, RANK, INPUT, OUTPUTS = 3, 4, 8, (6, 5)


def one_by_one(
    slots: list[int], y: torch.Tensor, x: torch.Tensor, a: list[torch.Tensor], b: list[torch.Tensor]
) -> None:
    """The definition: y += B A x for each token of an adapter, and nothing for those of slot -1."""
    for token, slot in enumerate(slots):
        if slot >= 0:
            y[token] += torch.cat([b[part][slot, 0] @ (a[part][slot, 0] @ x[token]) for part in range(len(OUTPUTS))])


def batch(slots: list[int], prefill: bool = True) -> GroupedLora:
    """The wrapper that vLLM calls, told of a batch with one adapter slot a token; -1 is none."""
    lora = GroupedLora(256, 64, "cpu")
    told(lora, slots, prefill)
    return lora


def told(lora: GroupedLora, slots: list[int], prefill: bool = True) -> None:
    ids = tuple(slot + 1 for slot in slots)  # vLLM numbers adapters from 1, and the base is 0
    mapping = SimpleNamespace(index_mapping=ids, prompt_mapping=ids, is_prefill=prefill)
    lora.update_metadata(mapping, [1, 2, 3], SLOTS + 1, 100)  # vLLM counts the base as one more


def matrices(inputs: int = INPUT, dtype: torch.dtype = torch.float32) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    a = [torch.randn(SLOTS, 1, RANK, inputs).to(dtype) for _ in OUTPUTS]
    return a, [torch.randn(SLOTS, 1, size, RANK).to(dtype) for size in OUTPUTS]


@given(
    slots=st.lists(st.tuples(st.integers(-1, SLOTS - 1), st.integers(1, 12)), min_size=1, max_size=12).map(
        lambda runs: [slot for slot, count in runs for _ in range(count)]
    ),
    ranks=st.lists(st.integers(0, RANK), min_size=SLOTS, max_size=SLOTS),
    wide=st.booleans(),
    prefill=st.booleans(),
    scale=st.sampled_from([1.0, 0.5]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_a_mixed_batch_is_as_token_by_token(
    slots: list[int], ranks: list[int], wide: bool, prefill: bool, scale: float, seed: int
) -> None:
    """Whatever the adapters' ranks, down to an adapter that holds nothing in this layer."""
    torch.manual_seed(seed)
    inputs = NARROW + 8 if wide else INPUT
    a, b = matrices(inputs)
    for slot, rank in enumerate(ranks):
        for part in range(len(OUTPUTS)):
            a[part][slot, 0, rank:] = 0.0
            b[part][slot, 0, :, rank:] = 0.0
    x, y = torch.randn(len(slots), inputs) / inputs**0.5, torch.randn(len(slots), sum(OUTPUTS))
    change = torch.zeros_like(y)
    one_by_one(slots, change, x, a, b)
    got = y.clone()
    batch(slots, prefill).add_lora_linear(got, x, tuple(a), tuple(b), scale, OUTPUTS)
    torch.testing.assert_close(got, y + scale * change)
    base = torch.tensor(slots) < 0
    assert torch.equal(got[base], y[base])


def test_what_is_written_to_a_slot_later_is_what_its_tokens_get() -> None:
    """A new adapter is written into the slot of an old one, in inference mode."""
    torch.manual_seed(0)
    slots = [0, 1, -1, 1]
    a, b = matrices()
    x, lora = torch.randn(len(slots), INPUT), batch(slots)
    with torch.inference_mode():
        lora.add_lora_linear(torch.zeros(len(slots), sum(OUTPUTS)), x, tuple(a), tuple(b), 1.0, OUTPUTS)
        for written in (a, b):
            written[0][1, 0].copy_(torch.randn_like(written[0][1, 0]))
            wanted, got = (torch.zeros(len(slots), sum(OUTPUTS)) for _ in range(2))
            one_by_one(slots, wanted, x, a, b)
            lora.add_lora_linear(got, x, tuple(a), tuple(b), 1.0, OUTPUTS)
            torch.testing.assert_close(got, wanted)


def test_in_bfloat16_the_sum_is_rounded_once() -> None:
    torch.manual_seed(0)
    slots = [0, 2, 2, 1, 0]
    a, b = matrices(dtype=torch.bfloat16)
    x, y = (torch.randn(len(slots), width).bfloat16() for width in (INPUT, sum(OUTPUTS)))
    exact = torch.zeros(y.shape)
    one_by_one(slots, exact, x.float(), [part.float() for part in a], [part.float() for part in b])
    got = y.clone()
    batch(slots).add_lora_linear(got, x, tuple(a), tuple(b), 1.0, OUTPUTS)
    torch.testing.assert_close(got, y + exact.bfloat16(), atol=0.0, rtol=2**-7)


def test_tokens_of_an_adapter_lie_together_and_those_of_the_base_are_left_out() -> None:
    grouped = Grouped.of(torch.tensor([-1, 1, 0, 1, -1, 0]), slots=5)
    assert grouped.tokens.tolist() == [1, 3, 2, 5]
    assert grouped.parts == ((1, 0, 2), (0, 2, 4))
    assert (grouped.runs, len(grouped.places)) == ((), 0)
    none = Grouped.of(torch.tensor([-1, -1]), slots=5)
    assert (none.runs, none.parts, len(none.tokens)) == ((), (), 0)


def test_prompts_are_left_where_they_are() -> None:
    grouped = Grouped.of(torch.tensor([-1, *[2] * 20, *[0] * 9, 1, *[2] * 10]), slots=4)
    assert grouped.runs == ((2, 1, 21), (0, 21, 30), (2, 31, 41))
    assert grouped.tokens.tolist() == [30]


def test_adapters_with_few_tokens_are_multiplied_at_once_where_they_are_half_of_the_slots() -> None:
    grouped = Grouped.of(torch.tensor([1, *[2] * 20, 0, 1, -1]), slots=4)
    assert grouped.runs == ((2, 1, 21),)
    assert (grouped.tokens.tolist(), grouped.parts) == ([0, 22, 21], ())
    assert grouped.rectangle[grouped.places].tolist() == grouped.tokens.tolist()
    assert grouped.places.tolist() == [2, 3, 0]
    assert len(grouped.rectangle) == 4 * 2
