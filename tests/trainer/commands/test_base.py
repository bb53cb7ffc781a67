"""`trainer base`: each stage lowers the loss, changes its parts and no other, and leaves a checkpoint that loads."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration

from service.adapters.base import Base
from service.images import Preparation
from service.prompt import Prompt
from tests.conftest import CHECKPOINT, ROOT
from tests.interrupted import interrupted_after
from trainer.__main__ import main
from trainer.config.training import AlignOptions, TuneOptions
from trainer.data.row import Row
from trainer.data.rows import read_rows
from trainer.model.base_llava import WEIGHTS, unfreeze
from trainer.model.checkpoint import Checkpoint
from trainer.model.features import States
from trainer.model.forest import collate, grow
from trainer.model.forward import loss_sum
from trainer.model.tokens import encode

MODEL = ROOT / "models/tiny-llava"
PROJECTOR, LANGUAGE = "multi_modal_projector", "language_model"
STAGES = {"align": (PROJECTOR,), "tune": (PROJECTOR, LANGUAGE)}


def run(stage: str, codes: Path, output: Path, *options: str) -> int:
    paths = ["--data", str(codes / "train.jsonl"), "--images", str(codes), "--output", str(output)]
    cache = ["--feature-cache", str(codes / "features"), "--model", str(MODEL), "--precision", "float32"]
    steps = ["--rows-per-step", "16", "--learning-rate", "1e-3"]
    return main(["base", stage, *paths, *cache, *steps, "--holdout", "0.2", "--log-steps", "1", *options])


@pytest.fixture(scope="module", params=STAGES)
def trained(request: pytest.FixtureRequest, codes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where one stage was run: the checkpoint has the stage's name, the run lies in runs/."""
    folder = tmp_path_factory.mktemp("base")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(request.param, codes, folder / request.param, "--epochs", "2") == 0
    return folder / str(request.param)


def log(checkpoint: Path) -> list[dict[str, float]]:
    lines = (checkpoint.parent / "runs" / checkpoint.name / "log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def learnt(checkpoint: Path) -> dict[str, torch.Tensor]:
    """What the run trained, in float32, by the model's own names."""
    tensors: dict[str, torch.Tensor] = load_file(checkpoint.parent / "runs" / checkpoint.name / "learnt" / WEIGHTS)
    return tensors


def test_a_few_steps_lower_the_loss(trained: Path) -> None:
    losses = [line["loss"] for line in log(trained) if "loss" in line]
    held_out = [line["eval_loss"] for line in log(trained) if "eval_loss" in line]
    # The projector alone has to teach a base a form that it never saw.
    assert sum(losses[-3:]) < (0.8 if trained.name == "tune" else 0.97) * sum(losses[:3])
    assert held_out[1] < held_out[0]


def test_only_the_named_parts_change_and_all_of_them_do(trained: Path) -> None:
    before, after = (load_file(path / "model.safetensors") for path in (MODEL, trained))
    assert before.keys() == after.keys()
    assert all(before[name].dtype == after[name].dtype for name in before)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {part for part in (PROJECTOR, LANGUAGE, "vision_tower") if any(part in name for name in changed)} == set(
        STAGES[trained.name]
    )
    assert changed >= {name for name in before if PROJECTOR in name}


def test_transformers_loads_it_with_the_outputs_that_were_trained(trained: Path, codes: Path) -> None:
    ours = Checkpoint.load(MODEL)
    rounded = {name: tensor.bfloat16() for name, tensor in learnt(trained).items()}  # as the source is stored
    assert not ours.model.load_state_dict(rounded, strict=False).unexpected_keys
    theirs = LlavaForConditionalGeneration.from_pretrained(trained, dtype=torch.float32, local_files_only=True).eval()
    pixels = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    ids = [ours.prompt.image_token_id] * 64 + list(ours.prompt.encode("what is the code?", 0))
    given: dict[str, Any] = {"input_ids": torch.tensor([ids]), "pixel_values": pixels}
    with torch.inference_mode():
        assert torch.equal(theirs(**given).logits, ours.model(**given).logits)


def test_it_is_another_base_asked_and_shown_pictures_as_before(trained: Path) -> None:
    assert Base.of_checkpoint(trained).digest != Base.of_checkpoint(MODEL).digest
    assert Base.of_checkpoint(trained).precision == "bfloat16"
    assert Prompt(trained).digest == Prompt(MODEL).digest
    assert Preparation.of_checkpoint(trained) == Preparation.of_checkpoint(MODEL)


def test_a_resumed_stage_ends_in_the_weights_of_an_undisturbed_one(
    codes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--epochs", "1.5", "--save-steps", "4"]
    assert run("align", codes, tmp_path / "undisturbed", *options) == 0
    with interrupted_after(6):
        run("align", codes, tmp_path / "resumed", *options)
    assert not (tmp_path / "resumed").exists()
    assert run("align", codes, tmp_path / "resumed", *options, "--resume") == 0
    expected, found = learnt(tmp_path / "undisturbed"), learnt(tmp_path / "resumed")
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.fixture(scope="module")
def rows(codes: Path) -> list[Row]:
    return [*read_rows(codes / "train.jsonl", codes)[:6], Row("text", None, "how many?", "six", "all")]


def test_the_projector_learns_in_the_step(rows: list[Row]) -> None:
    checkpoint = Checkpoint.load(MODEL)
    trees = grow(encode(rows, checkpoint.prompt, 64), 16)
    batch = collate(trees, [[tree] for tree in range(len(trees))], States.of(checkpoint, rows))
    expected = float(loss_sum(checkpoint.model, batch).detach())
    model = unfreeze(checkpoint.model, (PROJECTOR,))
    loss = model(**vars(batch))
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert bool(model.model.multi_modal_projector.linear_1.weight.grad.any())


def test_text_alone_still_gives_every_weight_a_gradient(rows: list[Row]) -> None:
    """Processes that meet pictures and those that meet none have to agree on whose gradients they average."""
    checkpoint = Checkpoint.load(MODEL)
    model = unfreeze(checkpoint.model, (PROJECTOR, LANGUAGE, "lm_head"))
    batch = collate(grow(encode(rows[-1:], checkpoint.prompt, 64), 16), [[0]])
    model(**vars(batch)).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(gradient is not None for gradient in gradients.values())
    assert not any(
        bool(gradient.any()) for name, gradient in gradients.items() if PROJECTOR in name and gradient is not None
    )


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", str(CHECKPOINT)], "--model: .* is int4, .*name the checkpoint it was packed from"),
        (["--output", str(ROOT)], "--output: .* is there already"),
        (["--model", "/nowhere"], "/nowhere"),
    ],
)
def test_what_cannot_be_trained_is_refused_by_its_option(
    codes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: str, options: list[str], words: str
) -> None:
    assert run(stage, codes, tmp_path / "out", *options) == 2
    assert re.search(words, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_the_defaults_are_llava_s() -> None:
    paths = {"data": "", "images": "", "model": "", "output": "out"}
    align, tune = AlignOptions.model_validate(paths), TuneOptions.model_validate(paths)
    assert [(o.learning_rate, o.rows_per_step, o.warmup, o.epochs) for o in (align, tune)] == [
        (1e-3, 256, 0.03, 1),
        (2e-5, 128, 0.03, 1),
    ]


def test_a_checkpoint_whose_head_is_its_embeddings_is_tuned_and_saved(
    codes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "tied"
    shutil.copytree(MODEL, source, copy_function=shutil.copyfile)
    tensors = load_file(source / "model.safetensors")
    save_file({name: tensor for name, tensor in tensors.items() if "lm_head" not in name}, source / "model.safetensors")
    config = json.loads((source / "config.json").read_text()) | {"tie_word_embeddings": True}
    config["text_config"]["tie_word_embeddings"] = True
    (source / "config.json").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    options = ["--model", str(source), "--max-steps", "3", "--save-steps", "1"]
    with interrupted_after(2):
        run("tune", codes, tmp_path / "out", *options)
    assert run("tune", codes, tmp_path / "out", *options, "--resume") == 0
    model = LlavaForConditionalGeneration.from_pretrained(tmp_path / "out", local_files_only=True)
    head, embeddings = model.lm_head.weight, model.get_input_embeddings().weight
    assert head.data_ptr() == embeddings.data_ptr()
    assert not torch.equal(embeddings.float(), next(t for n, t in tensors.items() if "embed_tokens" in n).float())
