"""A mixture of modalities: what is trained is what the compiled members answer, and only what should learns."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError

from tests.conftest import ROOT, png
from trainer.adapter.mixture import MEMBERS, add_mixture, compiled
from trainer.config.training import TrainOptions
from trainer.data.row import Row
from trainer.model.checkpoint import Checkpoint
from trainer.model.features import States
from trainer.model.forest import collate, grow
from trainer.model.forward import answer_logits, loss_sum
from trainer.model.tokens import encode
from trainer.training.optimizer import TABLE, give_rate

MODEL = ROOT / "models/tiny-llava"
METHODS = ("mixture", "lavin", "two-up")


def options(method: str, **others: Any) -> TrainOptions:
    return TrainOptions.model_validate({"name": "m", "data": "rows", "rank": 8, "experts": method, **others})


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    image = tmp_path_factory.mktemp("mixture") / "picture.png"
    image.write_bytes(png())
    about = [Row(f"i{n}", str(image), question, "red", "image") for n, question in enumerate(("which?", "what is it?"))]
    return [*about, *(Row(f"t{n}", None, f"{n} and 2?", "four", "text") for n in range(3))]


@pytest.fixture
def checkpoint() -> Checkpoint:
    return Checkpoint.load(MODEL)


def batch(checkpoint: Checkpoint, rows: list[Row]) -> Any:
    """All rows in one forest, images and texts in one sequence."""
    trees = grow(encode(rows, checkpoint.prompt, checkpoint.image_shape[0]), 2)
    return collate(
        trees, [list(range(len(trees)))], States.of(checkpoint, rows) if any(r.image for r in rows) else None
    )


def learnt(llava: Any) -> None:
    """Give every part that learns values as after some training."""
    torch.manual_seed(1)
    for _, parameter in llava.named_parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)


@pytest.mark.parametrize("method", METHODS)
def test_each_member_is_the_mixture_for_its_modality(
    checkpoint: Checkpoint, rows: list[Row], method: str, tmp_path: Path
) -> None:
    llava = add_mixture(checkpoint.model, options(method))
    learnt(llava)
    parts = {"text": [row for row in rows if not row.image], "image": [row for row in rows if row.image]}
    batches = {member: batch(checkpoint, parts[member]) for member in MEMBERS}
    with torch.inference_mode():
        mixed = {member: answer_logits(llava, batches[member])[0] for member in MEMBERS}
    llava.save_pretrained(tmp_path)
    llava.unload()
    base = {member: answer_logits(llava, batches[member])[0] for member in MEMBERS}
    for member in MEMBERS:
        lora = PeftModel.from_pretrained(llava, str(tmp_path / member)).eval()
        with torch.inference_mode():
            plain = answer_logits(lora.get_base_model(), batches[member])[0]
        lora.unload()
        assert float((plain - mixed[member]).abs().max()) <= 1e-4
        assert float((plain - base[member]).abs().max()) > 0.05


def test_images_and_texts_of_one_sequence_go_through_their_own_experts(checkpoint: Checkpoint, rows: list[Row]) -> None:
    llava = add_mixture(checkpoint.model, options("mixture"))
    learnt(llava)
    with torch.inference_mode():
        apart = sum(float(loss_sum(llava, batch(checkpoint, [r for r in rows if bool(r.image) == k]))) for k in (0, 1))
        together = float(loss_sum(llava, batch(checkpoint, rows)))
    assert together == pytest.approx(apart, rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_recomputed_activations_know_the_modality(checkpoint: Checkpoint, rows: list[Row], method: str) -> None:
    llava = add_mixture(checkpoint.model, options(method))
    learnt(llava)
    forest = batch(checkpoint, rows)

    def gradients() -> dict[str, torch.Tensor]:
        llava.zero_grad()
        loss_sum(llava, forest).backward()  # type: ignore[no-untyped-call]
        return {name: p.grad.clone() for name, p in llava.named_parameters() if p.grad is not None}

    llava.train()
    plain = gradients()
    llava.gradient_checkpointing_enable({"use_reentrant": False})
    again = gradients()
    assert plain.keys() == again.keys()
    assert all(torch.allclose(plain[name], again[name], rtol=1e-4, atol=1e-7) for name in plain)
    assert all("mixture_" in name for name in plain)


def test_experts_that_begin_alike_part_because_the_table_is_uneven(checkpoint: Checkpoint, rows: list[Row]) -> None:
    llava = add_mixture(checkpoint.model, options("mixture"))
    loss_sum(llava, batch(checkpoint, rows)).backward()  # type: ignore[no-untyped-call]
    up = llava.model.language_model.layers[0].self_attn.q_proj.experts.mixture_up
    first, second = up.weight.grad.chunk(2, 1)
    assert not torch.allclose(first, second)


def test_a_mixture_begins_as_its_base_and_leaves_it_as_it_was(checkpoint: Checkpoint, rows: list[Row]) -> None:
    forest = batch(checkpoint, rows)
    before = answer_logits(checkpoint.model, forest)[0].detach()
    llava = add_mixture(checkpoint.model, options("mixture"))
    assert torch.allclose(answer_logits(llava, forest)[0], before, atol=1e-5)
    learnt(llava)
    assert not torch.allclose(answer_logits(llava, forest)[0], before, atol=1e-2)
    llava.unload()
    assert torch.equal(answer_logits(llava, forest)[0], before)
    assert not [name for name, _ in llava.named_parameters() if "mixture" in name]


def test_two_up_is_a_shared_a_with_a_b_for_each(checkpoint: Checkpoint) -> None:
    llava = add_mixture(checkpoint.model, options("two-up"))
    learnt(llava)
    experts = llava.model.language_model.layers[1].mlp.up_proj.experts
    members, key = compiled(llava), "base_model.model.model.language_model.layers.1.mlp.up_proj.lora"
    assert torch.equal(members["text"][f"{key}_A.weight"], members["image"][f"{key}_A.weight"])
    assert torch.equal(members["text"][f"{key}_B.weight"], experts.mixture_up.weight[:, :8])
    assert torch.equal(members["image"][f"{key}_B.weight"], experts.mixture_up.weight[:, 8:])


def test_tables_have_a_rate_of_their_own(checkpoint: Checkpoint) -> None:
    llava = add_mixture(checkpoint.model, options("mixture"))
    named = [(name, p) for name, p in llava.named_parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW([p for _, p in named], lr=1e-3, weight_decay=0.1)
    give_rate(optimizer, (p for name, p in named if name.endswith(TABLE)), 0.5)
    tables = optimizer.param_groups[1]
    assert (tables["lr"], tables["weight_decay"], len(tables["params"])) == (0.5, 0.0, 4)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(named)


@pytest.mark.parametrize(
    ("others", "named"),
    [
        ({"optimizer": "muon"}, "--optimizer muon"),
        ({"rslora": True}, "--rslora"),
        ({"init_adapter": "shapes"}, "--init-adapter"),
        ({"experts": "lavin", "nf4": True}, "--nf4"),
        ({"text_share": 0.5, "group_by_modality": True}, "--text-share"),
    ],
)
def test_what_a_mixture_cannot_take_is_named(others: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        TrainOptions.model_validate({"name": "m", "data": "rows", "experts": "mixture", **others})
