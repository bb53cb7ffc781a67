"""An epoch is made of updates of so many rows each, in an order of seed and epoch alone, so that resuming is exact."""

from typing import Any

import numpy as np
import pytest
from accelerate import skip_first_batches
from accelerate.data_loader import prepare_data_loader
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from trainer.errors import OptionError
from trainer.model.forest import Trees, grow
from trainer.model.tokens import ANSWER, END, Tokens
from trainer.training.updates import Epochs, Shares, Updates


def tokens(images: list[int], lengths: list[int] | None = None) -> Tokens:
    """Rows about the images numbered so, -1 for text; each is its length of one id and ends in one said token."""
    sizes = lengths or [3 + number % 5 for number in range(len(images))]
    starts = np.cumsum([0, *sizes])
    marks = np.zeros(starts[-1], dtype=np.uint8)
    marks[starts[1:] - 1] = ANSWER | END
    names = tuple(f"{number}.png" for number in range(max(images, default=-1) + 1))
    ids = np.full(starts[-1], 9, dtype=np.uint16)
    return Tokens(ids, marks, starts, np.array(images, dtype=np.int32), names, (1, 3), 4, 3, 2, 0)


sets = st.lists(st.integers(-1, 9), min_size=1, max_size=80).map(lambda images: grow(tokens(images), 2))


def rows(trees: Trees, update: np.ndarray[Any, Any]) -> int:
    return int(np.diff(trees.starts)[update].sum())


@given(sets, st.integers(4, 9), st.integers(0, 2**40), st.integers(0, 99), st.booleans())
def test_every_tree_is_met_once_in_an_epoch_and_again_in_the_same_order(
    trees: Trees, size: int, seed: int, epoch: int, apart: bool
) -> None:
    order = Updates(trees, size, seed, apart)
    found = order.epoch(epoch)
    assert sorted(np.concatenate(found).tolist()) == list(range(len(trees)))
    assert len(found) == len(order)
    again = Updates(trees, size, seed, apart).epoch(epoch)
    assert [update.tolist() for update in again] == [update.tolist() for update in found]


@given(sets, st.integers(4, 9), st.integers(0, 5))
def test_updates_have_their_number_of_rows_give_or_take_a_tree_and_on_average(
    trees: Trees, size: int, epoch: int
) -> None:
    sizes = [rows(trees, update) for update in Updates(trees, size, 0).epoch(epoch)]
    assert len(sizes) == max(1, round(len(trees.rows) / size))
    mean = len(trees.rows) / len(sizes)
    assert all(abs(sum(sizes[:number]) - number * mean) < 2 for number in range(1, len(sizes) + 1))


def test_another_epoch_and_another_seed_have_other_orders() -> None:
    trees = grow(tokens([-1] * 50), 1)
    orders = {
        str([u.tolist() for u in Updates(trees, 4, seed).epoch(epoch)]) for seed in range(3) for epoch in range(3)
    }
    assert len(orders) == 9


def test_modalities_can_be_kept_apart_and_come_in_turns() -> None:
    trees = grow(tokens([-1, 0, 1, 2] * 40), 1)
    updates = Updates(trees, 8, 0, apart=True).epoch(0)
    kinds = [set((trees.image[update] >= 0).tolist()) for update in updates]
    assert all(len(kind) == 1 for kind in kinds)
    assert len({tuple(kind) for kind in kinds[:8]}) == 2


@given(sets, st.integers(1, 3), st.integers(0, 3))
def test_processes_share_out_an_update_and_meet_in_as_many_forward_passes(
    trees: Trees, processes: int, epoch: int
) -> None:
    order = Updates(trees, 12, 0)
    shares = Shares(order, trees, 24, 100.0, None, processes)
    assert len(shares) == len(order) * processes
    for number, update in enumerate(order.epoch(epoch)):
        items = [shares[(epoch * len(order) + number) * processes + rank] for rank in range(processes)]
        assert len({len(item["forests"]) for item in items}) == 1
        assert sum(item["rows"] for item in items) == rows(trees, update)
        assert sum(item["tokens"] for item in items) == trees.lengths[update].sum()
        planted = [int(tree) for item in items for forest in item["forests"] for tree in forest["trees"].unique()]
        assert sorted(tree for tree in planted if tree >= 0) == sorted(update.tolist())


class Loader:
    """One process's shares, asked for as transformers' loop asks and the trainer's callback tells the order."""

    def __init__(self, processes: int, rank: int) -> None:
        trees = grow(tokens([-1] * 48), 1)
        shares = Shares(Updates(trees, 4, 0), trees, 1000, 100.0, None, processes)
        self.epochs = Epochs(shares)
        plain = DataLoader(shares, batch_size=1, sampler=self.epochs, collate_fn=lambda items: items[0])
        self.prepared: Any = prepare_data_loader(
            plain, num_processes=processes, process_index=rank, put_on_device=False
        )

    def epoch(self, epoch: int, skip: int = 0) -> list[list[int]]:
        self.epochs.set_epoch(epoch)
        batches = skip_first_batches(self.prepared, skip) if skip else self.prepared
        batches.set_epoch(epoch)
        return [[int(t) for forest in share["forests"] for t in forest["trees"].unique()] for share in batches]


@pytest.mark.parametrize(("processes", "rank"), [(1, 0), (2, 0), (2, 1)])
def test_a_resumed_loader_goes_on_with_the_updates_that_were_to_come(
    processes: int, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accelerate.data_loader.synchronize_rng_states", lambda *_: None)  # it would ask the others
    undisturbed = Loader(processes, rank)
    epochs = [undisturbed.epoch(epoch) for epoch in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    resumed = Loader(processes, rank)
    assert resumed.epoch(1, skip=2) == epochs[1][2:]
    assert resumed.epoch(2) == epochs[2]


def test_every_update_has_its_share_of_text_and_texts_come_in_turns() -> None:
    images = [image for image in range(30) for _ in range(2)]
    trees = grow(tokens([*images, *[-1] * 25]), 2)
    updates = Updates(trees, 10, 0, text_share=0.25)
    assert len(updates) == 8  # 60 rows with an image, and 20 of text
    met: list[int] = []
    for epoch in range(5):
        drawn = updates.epoch(epoch)
        assert len(drawn) == 8
        pictured = [tree for update in drawn for tree in update if trees.image[tree] >= 0]
        assert sorted(pictured) == sorted(np.flatnonzero(trees.image >= 0))
        for update in drawn:
            textual = sum(trees.image[tree] < 0 for tree in update)
            assert 2 <= textual <= 3
        met += [tree for update in drawn for tree in update if trees.image[tree] < 0]
    assert all(met.count(tree) == 4 for tree in np.flatnonzero(trees.image < 0))  # 100 drawn of 25
    assert str(Updates(trees, 10, 0, text_share=0.25).epoch(3)) == str(updates.epoch(3))
    assert str(Updates(trees, 10, 1, text_share=0.25).epoch(3)) != str(updates.epoch(3))


def test_more_text_than_there_is_comes_again_and_one_kind_alone_is_refused() -> None:
    trees = grow(tokens([*range(12), -1, -1, -1]), 1)
    updates = Updates(trees, 8, 0, text_share=0.5)
    textual = [tree for update in updates.epoch(0) for tree in update if trees.image[tree] < 0]
    assert len(textual) == 12
    for images, kind in (([-1] * 4, "text"), ([0, 1], "images")):
        with pytest.raises(OptionError, match=f"--text-share 0.5: .*these are {kind} alone"):
            Updates(grow(tokens(images), 1), 8, 0, text_share=0.5)
