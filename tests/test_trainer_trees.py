"""One sequence for all questions about an image gives the loss and the gradient of a sequence for each."""

from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT, png
from trainer.batches import IGNORED, collate, grow
from trainer.config import TrainOptions
from trainer.data.files import read
from trainer.data.rows import Row
from trainer.features import Features
from trainer.model import Checkpoint, add_lora, loss_sum


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
    return rows


@pytest.fixture(scope="module")
def features(checkpoint: Checkpoint, rows: list[Row]) -> Features:
    return Features.of(checkpoint, rows)


def test_a_tree_holds_its_image_once_and_every_answer(checkpoint: Checkpoint, rows: list[Row]) -> None:
    trees = grow(rows, checkpoint.prompt, image_tokens=64, questions=16)
    assert len(trees) == 4
    image_id = checkpoint.prompt.image_token_id
    assert [tree.token_ids.count(image_id) for tree in trees] == [0, 64, 64, 64]
    assert [max(tree.branches) for tree in trees] == [1, 3, 3, 3]
    answers = sum(len(checkpoint.prompt.encode_answer(row.question, row.answer, row.image is not None)) for row in rows)
    assert sum(label != IGNORED for tree in trees for label in tree.labels) == answers
    assert len(grow(rows, checkpoint.prompt, image_tokens=64, questions=2)) == 7


def test_shared_prefix_loss_and_gradient_equal_the_plain_path(
    checkpoint: Checkpoint, rows: list[Row], features: Features
) -> None:
    model = add_lora(checkpoint.model, TrainOptions(name="x", data="", images="", rank=8))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)

    def gradient(questions: int) -> tuple[float, torch.Tensor]:
        model.zero_grad()
        trees = grow(rows, checkpoint.prompt, features.tokens, questions)
        loss = loss_sum(model.get_base_model(), collate(trees, features, checkpoint.prompt.pad_token_id))
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach()), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    shared, plain = gradient(16), gradient(1)
    assert shared[0] == pytest.approx(plain[0], rel=1e-5)
    assert float((shared[1] - plain[1]).norm() / plain[1].norm()) < 1e-4
    model.unload()


def test_the_plain_path_is_transformers_own(checkpoint: Checkpoint, rows: list[Row], features: Features) -> None:
    """Our forward on one row equals LlavaForConditionalGeneration's on pixels and full labels."""
    from service.images import picture

    row = rows[1]
    assert row.image
    (tree,) = grow([row], checkpoint.prompt, features.tokens, 1)
    ours = loss_sum(checkpoint.model, collate([tree], features, checkpoint.prompt.pad_token_id))
    ids = torch.tensor([[*tree.token_ids, checkpoint.prompt.end_token_id]])
    labels = torch.tensor([[IGNORED, *tree.labels]])
    prepared = picture(read(row.image), checkpoint.preparation).image
    pixels = checkpoint.processor(images=[prepared], return_tensors="pt").pixel_values
    theirs = checkpoint.model(input_ids=ids, pixel_values=pixels, labels=labels).loss
    count = sum(label != IGNORED for label in tree.labels)
    assert float(ours.detach()) / count == pytest.approx(float(theirs.detach()), rel=1e-4)


def test_cached_features_are_the_computed_ones_and_spare_the_tower(
    checkpoint: Checkpoint, features: Features, rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [row.image for row in rows if row.image]
    written = Features.of(checkpoint, rows, tmp_path)
    monkeypatch.setattr(type(checkpoint.model), "get_image_features", None)
    read_again = Features.of(checkpoint, rows, tmp_path)
    for image in images:
        assert torch.equal(written[image], features[image])
        assert torch.equal(read_again[image], features[image])
    assert written.tokens == read_again.tokens == 64
    assert Features({}, {}).tokens == 0


def test_features_in_bfloat16_are_near_and_kept_apart(
    checkpoint: Checkpoint, features: Features, rows: list[Row], tmp_path: Path
) -> None:
    near = Features.of(checkpoint, rows, tmp_path, bfloat16=True)
    exact = Features.of(checkpoint, rows, tmp_path)
    for image in [row.image for row in rows if row.image]:
        assert torch.equal(exact[image], features[image])
        assert 0 < float((near[image] - exact[image]).norm() / exact[image].norm()) < 0.03
