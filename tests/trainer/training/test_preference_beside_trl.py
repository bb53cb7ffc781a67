"""Loss and gradient of DPO are those of TRL's DPOTrainer on the same pairs; `make test-trl` installs it."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ROOT, png
from trainer.adapter.lora import add_lora
from trainer.config.training import TrainOptions
from trainer.data.row import Row
from trainer.model.checkpoint import Checkpoint
from trainer.model.features import States
from trainer.model.forest import collate, grow
from trainer.model.pairs import Owners
from trainer.model.tokens import encode
from trainer.training.preference import Answers, Preference

pytestmark = [
    pytest.mark.skipif(find_spec("trl") is None, reason="TRL is of the extra `bench`: make test-trl"),
    pytest.mark.filterwarnings("ignore"),  # of TRL's and its libraries' own
]
MODEL = ROOT / "models/tiny-llava"
BETA = 0.3


@pytest.fixture
def pairs(tmp_path: Path) -> list[Row]:
    """Five pairs of one picture and one of another."""
    for colour in ("red", "green"):
        (tmp_path / f"{colour}.png").write_bytes(png(colour))
    said = [
        ("red", "what color is the shape?", "red", "it is blue"),
        ("red", "is there a circle in the picture?", "yes", "no"),
        ("red", "which shape is this?", "a circle", "a square"),
        ("red", "how many shapes are there?", "one", "two or three"),
        ("red", "is the shape green?", "no", "yes"),
        ("green", "what color is the shape?", "green", "red"),
    ]
    return [
        Row(f"{n}", str(tmp_path / f"{of}.png"), question, chosen, "all", rejected=rejected)
        for n, (of, question, chosen, rejected) in enumerate(said)
    ]


def learner() -> tuple[Checkpoint, Any, TrainOptions]:
    checkpoint = Checkpoint.load(MODEL)
    options = TrainOptions(name="x", data=["-"], rank=8, method="dpo", beta=BETA, precision="float32")
    return checkpoint, add_lora(checkpoint.model, options).eval(), options


def moved(model: Any) -> None:
    """As after some updates: a LoRA that has just begun is its reference, and half its gradients are zero."""
    torch.manual_seed(1)
    for name, parameter in sorted(model.named_parameters()):
        if "lora_B.default" in name:
            torch.nn.init.normal_(parameter, std=0.05)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


def of_trl(pairs: list[Row], folder: Path) -> tuple[float, dict[str, torch.Tensor]]:
    from datasets import Dataset, Image
    from transformers import AutoProcessor
    from trl import DPOConfig, DPOTrainer

    _, model, _ = learner()
    lines = [
        {
            "images": [row.image],
            "prompt": f"<s> USER: <image>\n{row.question} ASSISTANT:",
            "chosen": f" {row.answer}</s>",
            "rejected": f" {row.rejected}</s>",
        }
        for row in pairs
    ]
    arguments = DPOConfig(
        output_dir=str(folder / "trl"),
        beta=BETA,
        per_device_train_batch_size=len(pairs),
        gradient_checkpointing=False,
        bf16=False,
        max_length=None,
        report_to="none",
        use_cpu=True,
    )
    dataset = Dataset.from_list(lines).cast_column("images", [Image(decode=True)])
    processor = AutoProcessor.from_pretrained(MODEL)
    trainer = DPOTrainer(model=model, args=arguments, train_dataset=dataset, processing_class=processor)
    moved(trainer.model)  # its reference is a copy of the adapter as it was
    (inputs,) = trainer.get_train_dataloader()
    loss = trainer.compute_loss(trainer.model, trainer._prepare_inputs(inputs))
    loss.backward()
    return loss.item(), gradients(trainer.model)


def of_ours(pairs: list[Row]) -> tuple[float, dict[str, torch.Tensor]]:
    checkpoint, model, options = learner()
    trees = grow(encode(pairs, checkpoint.prompt, checkpoint.image_shape[0], form="paired"), 5)
    forest = vars(collate(trees, [[tree] for tree in range(len(trees))], States.of(checkpoint, pairs)))
    reference = torch.zeros(int(trees.tokens.answer_starts[-1]))
    with torch.no_grad():
        reference[forest["numbers"]] = model(**forest, each=True)
    moved(model)
    answers = Answers(Owners(trees.tokens, torch.device("cpu")), reference)
    loss, _ = Preference(options, answers, answers)(model, forest)
    (loss / len(pairs)).backward()  # type: ignore[no-untyped-call]
    return loss.item() / len(pairs), gradients(model)


def test_loss_and_gradient_are_trls(pairs: list[Row], tmp_path: Path) -> None:
    theirs, their_gradients = of_trl(pairs, tmp_path)
    ours, our_gradients = of_ours(pairs)
    assert ours == pytest.approx(theirs, abs=1e-4)
    named = {name.partition("base_model.")[2]: each for name, each in their_gradients.items()}
    mine = {name.partition("base_model.")[2]: each for name, each in our_gradients.items()}
    assert set(named) == set(mine)
    whole, their_whole = (torch.cat([found[name].flatten() for name in sorted(found)]) for found in (mine, named))
    assert ((whole - their_whole).norm() / their_whole.norm()).item() < 1e-4
    assert (whole - their_whole).abs().max().item() < 1e-4
