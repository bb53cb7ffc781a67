"""One sequence for many trees, and one tree for all rows about an image, give the loss and gradient of each alone."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import ROOT, png
from trainer.adapter.lora import add_lora
from trainer.config.training import TrainOptions
from trainer.data.files import read
from trainer.data.row import Row
from trainer.errors import DataError, OptionError
from trainer.model.attention import BLOCKS, DENSE, mask, visible
from trainer.model.checkpoint import Checkpoint
from trainer.model.features import States
from trainer.model.forest import MULTIPLE, Batch, Trees, bend_of, collate, grow, pack
from trainer.model.forward import loss_sum
from trainer.model.tokens import encode


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return Checkpoint.load(ROOT / "models/tiny-llava")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    folder = tmp_path_factory.mktemp("images")
    asked = [("what color is the shape?", "red"), ("is there a circle in the picture?", "yes"), ("how many?", "1")]
    rows = [Row("text", None, "how many legs has a spider?", "eight", "all")]
    for colour in ("red", "blue", "green"):
        image = folder / f"{colour}.png"
        image.write_bytes(png(colour, (60, 40)))
        rows += [Row(f"{colour}-{number}", str(image), q, a, "all") for number, (q, a) in enumerate(asked)]
        rows.append(Row(colour, str(image), "and why?", "so it is", "all", history=(("is it so?", "yes"),)))
    return rows


@pytest.fixture(scope="module")
def states(checkpoint: Checkpoint, rows: list[Row]) -> States:
    return States.of(checkpoint, rows)


def trees_of(checkpoint: Checkpoint, rows: Sequence[Row], branches: int = 16) -> Trees:
    return grow(encode(rows, checkpoint.prompt, 64), branches)


def alone(trees: Trees, states: States) -> Batch:
    """Every tree in a sequence of its own."""
    return collate(trees, [[tree] for tree in range(len(trees))], states)


def test_a_tree_holds_its_image_once_and_every_answer(checkpoint: Checkpoint, rows: list[Row], states: States) -> None:
    trees = trees_of(checkpoint, rows)
    assert len(trees) == 4
    batch = alone(trees, states)
    assert sorted((batch.token_ids == checkpoint.prompt.image_token_id).sum(1).tolist()) == [0, 64, 64, 64]
    assert sorted(batch.branches.amax(1).tolist()) == [1, 4, 4, 4]
    answers = sum(
        len(checkpoint.prompt.encode_answer(question, answer, 0)) for row in rows for question, answer in row.exchanges
    )
    assert len(batch.labels) == len(batch.answers) == answers
    assert len(trees_of(checkpoint, rows, branches=2)) == 7
    assert len(trees_of(checkpoint, rows, branches=1)) == len(rows)


def test_a_text_with_a_history_is_a_branch_where_every_answer_is_to_be_said(checkpoint: Checkpoint) -> None:
    row = Row("x", None, "and b?", "two words", "all", history=(("a?", "one"),))
    tokens = encode([row], checkpoint.prompt, 64)
    batch = collate(grow(tokens, 1), [[0]])
    end = checkpoint.prompt.end_token_id
    said = [int(batch.labels[number]) for number in batch.answers.argsort()]
    assert said.count(end) == 2
    texts = checkpoint.prompt.decode(said[: said.index(end)]), checkpoint.prompt.decode(said[said.index(end) :])
    assert texts == ("one", "two words")
    asked = checkpoint.prompt.encode("and b?", 0, row.messages)
    assert tuple(batch.token_ids.flatten()[: len(asked)].tolist()) == asked  # as the service writes the history


@pytest.mark.parametrize("branches", [16, 2])
@pytest.mark.parametrize("budget", [10_000, 300])
def test_loss_and_gradient_of_a_forest_are_those_of_each_row_alone(
    checkpoint: Checkpoint, rows: list[Row], states: States, branches: int, budget: int
) -> None:
    model = add_lora(checkpoint.model, TrainOptions(name="x", data="", images="", rank=8))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)

    def gradient(batches: list[Batch]) -> tuple[float, torch.Tensor]:
        model.zero_grad()
        losses = [loss_sum(model.get_base_model(), batch) for batch in batches]
        sum(losses, torch.zeros(())).backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        return sum(float(loss.detach()) for loss in losses), torch.cat(gradients)

    trees = trees_of(checkpoint, rows, branches)
    forests = pack(trees.lengths.tolist(), budget, bend=10_000)
    packed = gradient([collate(trees, forest, states) for forest in forests])
    plain = gradient([alone(trees_of(checkpoint, rows, 1), states)])
    model.unload()
    assert (len(forests) == 1) == (budget == 10_000)
    assert packed[0] == pytest.approx(plain[0], rel=1e-5)
    assert float((packed[1] - plain[1]).norm() / plain[1].norm()) < 1e-4


def test_a_row_alone_is_transformers_own(checkpoint: Checkpoint, rows: list[Row], states: States) -> None:
    """Our forward on one row equals LlavaForConditionalGeneration's on pixels and full labels."""
    from service.images import picture

    row = rows[1]
    assert row.image
    batch = alone(trees_of(checkpoint, [row]), states)
    ours = loss_sum(checkpoint.model, batch)
    length = int((batch.trees >= 0).sum())
    ids = torch.tensor([[*batch.token_ids[0, :length].tolist(), checkpoint.prompt.end_token_id]])
    labels = torch.full_like(ids, -100)
    labels[0, batch.answers + 1] = batch.labels
    prepared = picture(read(row.image), checkpoint.preparation).image
    pixels = checkpoint.processor(images=[prepared], return_tensors="pt").pixel_values
    theirs = checkpoint.model(input_ids=ids, pixel_values=pixels, labels=labels).loss
    assert float(ours.detach()) / len(batch.labels) == pytest.approx(float(theirs.detach()), rel=1e-4)


def test_blocks_of_flex_attention_are_the_dense_mask(
    checkpoint: Checkpoint, rows: list[Row], states: States, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.integrations import flex_attention

    monkeypatch.setattr(flex_attention.torch, "compile", lambda function, **_: function)  # eager, as CPUs have it
    monkeypatch.setattr(flex_attention.WrappedFlexAttention, "_is_flex_compiled", False)
    monkeypatch.setattr(flex_attention.WrappedFlexAttention, "_instance", None)
    trees = trees_of(checkpoint, rows)
    (forest,) = pack(trees.lengths.tolist(), 10_000, bend=float("inf"))
    batch = collate(trees, forest, states)
    language = checkpoint.model.model.language_model
    losses = []
    for form in (DENSE, BLOCKS):
        language.set_attn_implementation(form)
        losses.append(float(loss_sum(checkpoint.model, batch).detach()))
    language.set_attn_implementation(DENSE)
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_a_token_sees_its_branch_and_its_prefix_and_no_other_tree() -> None:
    trees, branches = torch.tensor([[5, 5, 5, 5, 7, 7, -1, -1]]), torch.tensor([[0, 1, 1, 2, 1, 1, 0, 0]])
    empty = torch.empty(0)
    batch = Batch(trees, trees, trees, branches, empty, empty)
    assert visible(batch)[0].int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0],
        [1, 0, 0, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 0, 0, 0],
        [0, 0, 0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 0, 1, 1],
    ]
    with torch.autocast("cpu", torch.bfloat16):
        assert mask(batch, DENSE).dtype == torch.bfloat16


@given(st.lists(st.integers(1, 200), max_size=60), st.integers(200, 2000), st.floats(10, 1e6))
def test_every_tree_is_packed_once_and_no_forest_is_over_the_budget(
    lengths: list[int], budget: int, bend: float
) -> None:
    forests = pack(lengths, budget, bend)
    assert sorted(tree for forest in forests for sequence in forest for tree in sequence) == list(range(len(lengths)))
    for forest in forests:
        longest = max(sum(lengths[tree] for tree in sequence) for sequence in forest)
        assert len(forest) * (longest + MULTIPLE - 1) // MULTIPLE * MULTIPLE <= budget + len(forest) * MULTIPLE


def test_on_a_gpu_at_the_7b_s_width_a_mix_of_a_third_text_is_padded_by_less_than_a_twentieth() -> None:
    generator = torch.Generator().manual_seed(0)
    for size, budget in ((600, 8192), (600, 16384)):
        images = (size + torch.randint(10, size, (64,), generator=generator)).tolist()
        texts = torch.randint(10, size, (32,), generator=generator).tolist()
        lengths = images + texts
        forests = pack(lengths, budget, bend_of(4096, on_gpu=True))
        area = sum(
            len(forest) * -(-max(sum(lengths[tree] for tree in sequence) for sequence in forest) // 8) * 8
            for forest in forests
        )
        assert 1 - sum(lengths) / area < 0.05


def test_texts_go_into_sequences_of_their_own_where_that_pads_less() -> None:
    """The bench's mix at the embedded model's width: 75 to 80 tokens with an image, 8 to 11 without."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(75, 81, (43,), generator=generator).tolist()
    texts = torch.randint(8, 12, (21,), generator=generator).tolist()
    lengths = images + texts
    forests = pack(lengths, 8192, bend_of(192, on_gpu=False))
    area = sum(len(forest) * max(_padded(lengths, sequence) for sequence in forest) for forest in forests)
    assert 1 - sum(lengths) / area < 0.05


def test_sequences_of_unlike_lengths_are_forests_of_their_own_where_padding_costs_more_than_a_forest() -> None:
    assert len(pack([400, 380], 8192, bend=100.0)) == 1
    (long, short) = pack([400] * 10 + [40] * 9, 8192, bend=100.0)
    assert (len(long), len(short)) == (10, 9)


def _padded(lengths: list[int], sequence: list[int]) -> int:
    return -(-sum(lengths[tree] for tree in sequence) // MULTIPLE) * MULTIPLE


def test_what_is_too_long_is_named(checkpoint: Checkpoint, rows: list[Row]) -> None:
    with pytest.raises(OptionError, match=r"--tokens 70: a row and its image come to .* give at least"):
        grow(encode(rows, checkpoint.prompt, 64), 16, budget=70)
    with pytest.raises(DataError, match=r"comes to .* tokens, the base holds 40") as error:
        encode(rows, checkpoint.prompt, 64, context=40)
    assert len(error.value.faults) == len(rows) - 1


def test_the_plain_form_is_the_image_and_its_caption(checkpoint: Checkpoint, rows: list[Row], states: States) -> None:
    tokens = encode(rows[1:2], checkpoint.prompt, 64, form="plain")
    batch = collate(grow(tokens, 1), [[0]], states)
    assert checkpoint.prompt.decode(batch.labels.tolist()) == "red"
    assert int(batch.answers[0]) == len(tokens.head) - 1  # the first word follows the image
    assert set(batch.labels.tolist()) == set(tokens.ids.tolist())
    with pytest.raises(DataError, match="text: has no image"):
        encode(rows[:1], checkpoint.prompt, 64, form="plain")


def test_captions_of_one_image_share_it(checkpoint: Checkpoint, rows: list[Row], states: States) -> None:
    captions = [rows[1], Row("b", rows[1].image, "", "a round one", "all")]
    losses = [
        float(
            loss_sum(checkpoint.model, alone(grow(encode(captions, checkpoint.prompt, 64, form="plain"), most), states))
        )
        for most in (2, 1)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_tree_that_is_there_twice_does_not_see_itself(checkpoint: Checkpoint) -> None:
    trees = grow(encode([Row("t", None, "2 and 2?", "four", "text")], checkpoint.prompt, 64), 1)
    once, twice = collate(trees, [[0]]), collate(trees, [[0, 0]])
    with torch.inference_mode():
        assert float(loss_sum(checkpoint.model, twice)) == pytest.approx(2 * float(loss_sum(checkpoint.model, once)))
