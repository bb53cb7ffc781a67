"""`trainer train --experts mixture`, start to end: one version of two LoRAs, each proven, that other commands take."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from service.adapters.base import Base
from service.adapters.modules import CONFIG, WEIGHTS
from service.adapters.proof import Proof
from service.adapters.store import Store
from service.members import MEMBERS, MIXTURE, members
from service.prompt import Prompt
from tests.conftest import CHECKPOINT, ROOT
from tests.launched import DDP, ONE, run
from trainer.__main__ import main
from trainer.adapter.find import find
from trainer.data.files import read

MODEL = str(ROOT / "models/tiny-llava")


@pytest.fixture(scope="module")
def rows(codes: Path) -> Path:
    """The codes of colours, asked about pictures, and which code a colour's name has, asked as text."""
    colours = ("red", "green", "blue", "black", "orange", "purple")
    asked = [
        f"{how} {colour}?" for how in ("code of", "which code has", "the number for", "number of") for colour in colours
    ]
    texts = [{"question": question, "answer": str(9 - number % 6)} for number, question in enumerate(asked)]
    file = codes / "both.jsonl"
    file.write_text(read(str(codes / "train.jsonl")).decode() + "\n" + "\n".join(map(json.dumps, texts)))
    return file


@pytest.fixture(scope="module")
def trained(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("mixture")
    named = ["--name", "codes", "--experts", "mixture", "--rank", "8", "--text-share", "0.3", "--epochs", "8"]
    learning = ["--learning-rate", "5e-3", "--rows-per-step", "16", "--holdout", "0.2", "--model", MODEL]
    learning += ["--score-rows", "12"]  # few, of which a quarter at least is text
    places = ["--store", str(work / "store"), "--output", str(work / "run"), "--feature-cache", str(work / "features")]
    assert main(["train", "--data", str(rows), "--images", str(rows.parent), *named, *learning, *places]) == 0
    return work


def test_one_version_has_two_members_that_the_service_takes(trained: Path, prompt: Prompt) -> None:
    adapter = Store(trained / "store").stable("codes")
    assert set(members(adapter.path)) == set(MEMBERS)
    proof = Proof.for_checkpoint(CHECKPOINT, Base.of_checkpoint(CHECKPOINT), prompt, 64)
    manifest = proof.examine(adapter)
    assert manifest is not None
    assert manifest.format == 2
    assert {probe.image_png is None for probe in manifest.probes} == {True, False}
    assert all(probe.base_answer != probe.adapter_answer for probe in manifest.probes)
    assert json.loads(read(str(adapter.path / CONFIG)))["peft_type"] == MIXTURE
    assert "`image/` answers questions that show a picture" in read(str(adapter.path / "README.md")).decode()


def test_the_curve_has_the_held_out_loss_by_modality(trained: Path) -> None:
    points = [json.loads(line) for line in read(str(trained / "run/log.jsonl")).decode().splitlines()]
    looks = [point for point in points if "eval_loss" in point]
    assert all({"eval_loss_image", "eval_loss_text"} <= point.keys() for point in looks)
    assert all(min(p["eval_loss_image"], p["eval_loss_text"]) <= p["eval_loss"] for p in looks)
    assert looks[-1]["eval_loss_text"] < looks[0]["eval_loss_text"]


def test_checkpoints_and_the_run_are_mixtures_that_evaluate_takes(
    trained: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (last,) = (trained / "run/checkpoints").iterdir()
    for folder in (last, trained / "run/learnt"):
        assert all((folder / member / WEIGHTS).is_file() for member in MEMBERS)
    asked = ["--adapter", str(trained / "run"), "--model", MODEL, "--data", str(rows), "--images", str(rows.parent)]
    assert main(["evaluate", *asked, "--limit", "200", "--store", str(trained / "store")]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[0])
    assert said["adapter_right"] > said["base_right"]


def test_what_takes_one_lora_refuses_a_mixture_by_name(
    trained: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert set(find("codes", trained / "store").by_member([])) == set()
    merging = ["merge", "--adapter", "codes", "--model", MODEL, "--output", str(tmp_path / "merged")]
    assert main([*merging, "--store", str(trained / "store")]) == 2
    assert "is a mixture of two LoRAs: name one of them" in capsys.readouterr().err


def test_rows_of_one_kind_are_refused_before_anything_is_trained(
    codes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = ["--name", "codes", "--experts", "mixture", "--model", MODEL, "--store", str(tmp_path / "store")]
    paths = ["--data", str(codes / "train.jsonl"), "--images", str(codes), "--output", str(tmp_path / "run")]
    assert main(["train", *named, *paths]) == 2
    assert "the training rows are rows with an image alone" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_learn_the_mixture_that_one_learns(rows: Path, tmp_path: Path) -> None:
    """By DDP over gloo; in float32 processes only add in another order."""
    learnt = {}
    for kind in (ONE, DDP):
        named = ["--name", "codes", "--experts", "mixture", "--rank", "8", "--text-share", "0.3", "--max-steps", "10"]
        learning = ["--learning-rate", "5e-3", "--rows-per-step", "16", "--holdout", "0.2", "--precision", "float32"]
        output = tmp_path / kind
        places = ["--store", str(output / "store"), "--output", str(output), "--gate", "loss", "--model", MODEL]
        places += ["--feature-cache", str(tmp_path / "features")]
        set_ = ["--data", str(rows), "--images", str(rows.parent)]
        run(kind, ["train", *set_, *named, *learning, *places], tmp_path / f"{kind}.log")
        learnt[kind] = load_file(output / "learnt/model.safetensors")
    assert learnt[ONE].keys() == learnt[DDP].keys()
    for name, alone in learnt[ONE].items():
        assert (learnt[DDP][name] - alone).norm() <= 1e-3 * alone.norm(), name
