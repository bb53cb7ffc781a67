"""`python -m trainer` from files to a version in the store, through the real command line."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from service.adapters.base import Base
from service.adapters.proof import Proof
from service.adapters.store import Store
from service.prompt import Prompt
from tests.conftest import CHECKPOINT, ROOT
from tests.interrupted import interrupted_after
from trainer.__main__ import main


def run(codes: Path, store: Path, *options: str) -> int:
    model = str(ROOT / "models/tiny-llava")
    paths = ["--data", str(codes / "train.jsonl"), "--images", str(codes), "--store", str(store), "--model", model]
    paths += ["--feature-cache", str(codes / "features")]
    return main(["train", "--name", "codes", *paths, "--output", str(store / "run"), *options])


def test_training_publishes_a_version_that_the_service_would_accept(
    codes: Path, tmp_path: Path, prompt: Prompt
) -> None:
    options = ["--epochs", "15", "--learning-rate", "3e-3", "--rows-per-step", "10", "--holdout", "0.2"]
    options += ["--about", "Codes of colours, one to six."]
    pattern = ["--rank", "8", "--rank-pattern", '{"layers.0.mlp.up_proj": 32}']
    assert run(codes, tmp_path, *options, *pattern) == 0
    adapter = Store(tmp_path).stable("codes")
    Store(tmp_path).verify(adapter)
    proof = Proof.for_checkpoint(CHECKPOINT, Base.of_checkpoint(CHECKPOINT), prompt, 64)
    manifest = proof.examine(adapter)
    assert manifest is not None
    assert manifest.rank == 32  # the largest that any module has: what a service must allow
    assert manifest.score.adapter > 0.8 * manifest.score.rows > manifest.score.base
    assert manifest.probes[0].adapter_answer.isdigit()
    assert all(probe.base_answer != probe.adapter_answer for probe in manifest.probes)
    card = (adapter.path / "README.md").read_text()
    assert "held-out" in card
    assert manifest.about == "Codes of colours, one to six."
    assert manifest.about in card
    assert "--about 'Codes of colours, one to six.'" in card  # its command can be pasted
    losses = [
        json.loads(line)["loss"] for line in (tmp_path / "run/log.jsonl").read_text().splitlines() if '"loss"' in line
    ]
    assert losses[-1] < losses[0] / 2
    assert f"training loss from {losses[0]:.3f} at step 1 " in (tmp_path / "run/report.html").read_text()
    report = " ".join((tmp_path / "run/report.html").read_text().split())
    assert "with one grey picture in place of each" in report
    assert "; it looks at the pictures." in report  # every question is the same: only the picture tells the code
    assert (adapter.path / "images.txt").read_text() == (tmp_path / "run/images.txt").read_text()


def test_an_adapter_that_gains_nothing_is_not_published(
    codes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(codes, tmp_path, "--epochs", "0.1", "--learning-rate", "1e-9", "--holdout", "0.2") == 2
    told = capsys.readouterr().err
    assert "not published" in told
    assert f"while its held-out loss still falls ({tmp_path}/run/report.html), more --epochs" in told
    assert Store(tmp_path).names() == []
    assert "Worst errors" in (tmp_path / "run/report.html").read_text()


def test_muon_learns_and_goes_on_where_it_was_cut_off(codes: Path, tmp_path: Path) -> None:
    options = [
        "--optimizer",
        "muon",
        "--epochs",
        "8",
        "--rows-per-step",
        "10",
        "--learning-rate",
        "3e-3",
        "--holdout",
        "0.2",
    ]
    options += ["--save-steps", "5"]
    assert run(codes, tmp_path, *options) == 0
    with interrupted_after(17):
        run(codes, tmp_path / "cut", *options)
    assert run(codes, tmp_path / "cut", *options, "--resume") == 0
    whole, cut = (
        Store(store).stable("codes").path / "adapter_model.safetensors" for store in (tmp_path, tmp_path / "cut")
    )
    assert whole.read_bytes() == cut.read_bytes()


@pytest.mark.parametrize("shared_out_by", ["is_deepspeed_enabled", "is_fsdp_enabled"])
def test_muon_is_refused_where_processes_share_out_matrices(
    codes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shared_out_by: str
) -> None:
    def build(**_: object) -> SimpleNamespace:
        return SimpleNamespace(**{"is_deepspeed_enabled": False, "is_fsdp_enabled": False, shared_out_by: True})

    monkeypatch.setattr("trainer.training.loop.TreeTrainer", build)
    assert run(codes, tmp_path, "--optimizer", "muon") == 2
    assert "--optimizer muon" in capsys.readouterr().err


RUIN = ["--learning-rate", "1", "--warmup", "0", "--epochs", "8", "--rows-per-step", "8", "--holdout", "0.2"]
RUIN += ["--save-steps", "2", "--patience", "2", "--precision", "float32"]


def held_out_losses(run: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["eval_loss"] for line in lines if "eval_loss" in line}


def test_patience_waits_for_checkpoints_where_they_are_not_of_epochs(codes: Path, tmp_path: Path) -> None:
    """A rate that ruins the adapter sooner or later: two evaluations are waited for, and no more."""
    run(codes, tmp_path, *RUIN)
    losses = held_out_losses(tmp_path / "run")
    best, last = min(losses, key=lambda step: losses[step]), max(losses)
    assert list(losses) == list(range(2, last + 1, 2))
    assert best == last - 4
    assert (tmp_path / f"run/checkpoints/checkpoint-{best}/complete").exists()
    # Patience goes on where it was: cut off behind the first evaluation that was worse, it waits for one more.
    with interrupted_after(last - 1):
        run(codes, tmp_path / "cut", *RUIN)
    run(codes, tmp_path / "cut", *RUIN, "--resume")
    assert held_out_losses(tmp_path / "cut/run") == losses


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--rank", "7"], "--rank"),
        (["--rank-pattern", '{"(": 8}'], "--rank-pattern ( [key]: '(' is not a regular expression"),
        (["--rank-pattern", '{"q_proj": 7}'], "--rank-pattern q_proj: "),
        (["--track", '["x"]'], "--track 0: "),
        (["--holdout", "1.5"], "--holdout"),
        (["--rank-pattern", "abc"], "--rank-pattern: is neither JSON nor name=value"),
        (["--rank-pattern", "{bad"], "--rank-pattern: is neither JSON"),
        (["--track", "{"], "--track: is neither JSON"),
        (["--track", "wandb"], "--track wandb: needs a package that is not installed: wandb"),
        (["--nf4"], "--nf4: needs a package that is not installed: bitsandbytes"),
        (["--optimizer", "adamw-8bit"], "--optimizer adamw-8bit: needs a package that is not installed: bitsandbytes"),
        (["--seed", "-1"], "--seed: "),
        (["--seed", "4294967296"], "--seed: "),
        (["--epochs", "inf"], "--epochs: "),
        (["--learning-rate", "nan"], "--learning-rate: "),
        (["--targets", '["fc1"]'], "--targets 0: "),
        (["--images", "a", "--images", "b"], "--images: 1 sets are named by --data"),
        (["--init-adapter", "nobody"], "--init-adapter nobody"),
        (["--init-adapter", "x", "--rank", "8"], "--rank"),
        (["--config", "/nowhere.yaml"], "--config /nowhere.yaml"),
        (["--model", "/nowhere"], "/nowhere"),
        (["--data", "/nowhere.jsonl"], "/nowhere.jsonl"),
    ],
)
def test_a_bad_option_is_named(
    codes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], word: str
) -> None:
    try:
        status: object = run(codes, tmp_path, *options)
    except SystemExit as leave:  # argparse's own way out
        status = leave.code
    assert status == 2
    assert word in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["train"],
        ["base", "align"],
        ["base", "tune"],
        ["evaluate"],
        ["publish"],
        ["merge"],
        ["data", "annotations"],
        ["data", "score"],
        ["data", "balance"],
        ["data", "caption"],
        ["data", "questions"],
    ],
)
def test_help_teaches(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--help"]) == 0
    assert " ".join(["python -m trainer", *command]) in capsys.readouterr().out


def test_evaluate_without_a_service_says_what_to_do(codes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = ["--data", str(codes / "train.jsonl"), "--images", str(codes)]
    assert main(["evaluate", "--adapter", "codes", *paths, "--url", "http://127.0.0.1:9"]) == 2
    assert "make serve" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "base align", "evaluate", "data check"])
def test_a_command_without_options_says_what_it_needs(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command.split()) == 2
    assert "--data: is needed" in capsys.readouterr().err


def test_a_name_that_cannot_be_is_told_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--name", "My welds", "--data", "rows.jsonl", "--images", "photos"]) == 2
    assert "--name: 'My welds' is no name: lower-case letters, digits" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "named"), [("", "publish "), ("base", "align "), ("data", "import "), ("store", "collect ")]
)
def test_a_command_that_has_others_says_which(command: str, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command.split()) == 0
    assert f" {named}" in capsys.readouterr().out


def test_a_command_that_is_not_there_is_told_with_those_that_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert "did you mean train? `python -m trainer --help` lists them" in capsys.readouterr().err


@pytest.mark.parametrize(
    "module", ["trainer.__main__", "trainer.data.check", "trainer.data.import_", "trainer.data.dedupe"]
)
def test_help_and_commands_over_rows_do_not_wait_for_torch(module: str) -> None:
    """Torch and transformers take seconds and 300 MB, which --help and a check of rows have no use for."""
    code = f"import sys, {module}; sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'pandas')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
