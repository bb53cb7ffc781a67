"""Trees of like length are trained on together, in an order of seed and epoch alone, so that resuming is exact."""

from collections.abc import Iterator
from typing import Any

import pytest
from accelerate import skip_first_batches
from accelerate.data_loader import prepare_data_loader
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from trainer.batches import Tree
from trainer.order import LengthOrder


def tree(length: int, image: bool = True) -> Tree:
    tokens = tuple(range(length))
    return Tree("a.png" if image else None, tokens, tokens, tokens, tokens)


trees = st.lists(st.builds(tree, st.integers(1, 99), st.booleans()), min_size=1, max_size=60)


def order(trees: list[Tree], together: int, seed: int, epoch: int) -> list[int]:
    found = LengthOrder(trees, together, seed)
    found.set_epoch(epoch)
    return list(found)


@given(trees, st.integers(1, 9), st.integers(0, 2**40), st.integers(0, 99))
def test_every_tree_is_met_once_in_an_epoch_and_again_in_the_same_order(
    trees: list[Tree], together: int, seed: int, epoch: int
) -> None:
    found = order(trees, together, seed, epoch)
    assert sorted(found) == list(range(len(trees)))
    assert order(trees, together, seed, epoch) == found


def test_another_epoch_and_another_seed_have_other_orders() -> None:
    equal = [tree(7)] * 50
    orders = {tuple(order(equal, 4, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_batches_are_of_like_length_and_text_is_apart() -> None:
    mixed = [tree(10 + number % 40, image=number % 4 > 0) for number in range(400)]
    found = order(mixed, 8, 0, 0)
    batches = [[mixed[index] for index in found[at : at + 8]] for at in range(0, len(found), 8)]
    spreads = [max(len(t.token_ids) for t in batch) - min(len(t.token_ids) for t in batch) for batch in batches]
    assert sorted(spreads)[len(spreads) // 2] <= 4  # of 39 at most
    assert sum(len({bool(t.image) for t in batch}) == 2 for batch in batches) <= 10  # one a megabatch, of 50 batches


def loader(processes: int, rank: int) -> Any:
    varied = [tree(number % 13 + 1) for number in range(48)]
    plain = DataLoader(list(range(48)), batch_size=4, sampler=LengthOrder(varied, 4 * processes, 0))  # type: ignore[arg-type]
    return prepare_data_loader(plain, num_processes=processes, process_index=rank, put_on_device=False)


def epoch_of(prepared: Any, epoch: int) -> Iterator[list[int]]:
    """As transformers' loop asks for an epoch."""
    prepared.set_epoch(epoch)
    return (batch.tolist() for batch in prepared)


@pytest.mark.parametrize(("processes", "rank"), [(1, 0), (2, 0), (2, 1)])
def test_a_resumed_loader_goes_on_with_the_batches_that_were_to_come(
    processes: int, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "accelerate.data_loader.synchronize_rng_states", lambda *_: None
    )  # other processes there are none
    undisturbed = loader(processes, rank)
    epochs = [list(epoch_of(undisturbed, epoch)) for epoch in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    resumed = loader(processes, rank)
    assert list(epoch_of(skip_first_batches(resumed, 2), 1)) == epochs[1][2:]
    assert list(epoch_of(resumed, 2)) == epochs[2]
