"""Trees of like length are trained on together, in an order of seed and epoch alone, so that resuming is exact."""

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
    assert sorted(spreads)[len(spreads) // 2] < 8  # of 39 at most
    assert sum(len({bool(t.image) for t in batch}) == 2 for batch in batches) <= 10  # one a megabatch, of 50 batches


class Loader:
    """One process's batches, asked for as transformers' loop asks and the trainer's callback tells the order."""

    def __init__(self, processes: int, rank: int) -> None:
        varied = [tree(number % 13 + 1) for number in range(48)]
        self.order = LengthOrder(varied, 4 * processes, 0)
        plain: DataLoader[int] = DataLoader(list(range(48)), batch_size=4, sampler=self.order)  # type: ignore[arg-type]
        self.prepared: Any = prepare_data_loader(
            plain, num_processes=processes, process_index=rank, put_on_device=False
        )

    def epoch(self, epoch: int, skip: int = 0) -> list[list[int]]:
        self.order.set_epoch(epoch)
        batches = skip_first_batches(self.prepared, skip) if skip else self.prepared
        batches.set_epoch(epoch)
        return [batch.tolist() for batch in batches]


@pytest.mark.parametrize(("processes", "rank"), [(1, 0), (2, 0), (2, 1)])
def test_a_resumed_loader_goes_on_with_the_batches_that_were_to_come(
    processes: int, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accelerate.data_loader.synchronize_rng_states", lambda *_: None)  # it would ask the others
    undisturbed = Loader(processes, rank)
    epochs = [undisturbed.epoch(epoch) for epoch in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    resumed = Loader(processes, rank)
    assert resumed.epoch(1, skip=2) == epochs[1][2:]
    assert resumed.epoch(2) == epochs[2]
