"""`python -m trainer` from files to a version in the store, through the real command line."""

import json
from pathlib import Path

import pytest

from service.adapters.base import Base
from service.adapters.proof import Proof
from service.adapters.store import Store
from service.prompt import Prompt
from tests.conftest import CHECKPOINT, ROOT, png
from trainer.__main__ import main

COLOURS = ("red", "green", "blue", "black", "orange", "purple")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A domain with rules of its own: every colour has a number."""
    folder = tmp_path_factory.mktemp("data")
    lines = []
    for number in range(60):
        colour = COLOURS[number % len(COLOURS)]
        (folder / f"{number}.png").write_bytes(png(colour, (64 + number % 7, 64)))
        for question in ("what is the code?", "which code is shown?"):
            lines.append(
                json.dumps({"image": f"{number}.png", "question": question, "answer": str(COLOURS.index(colour) + 1)})
            )
    (folder / "train.jsonl").write_text("\n".join(lines))
    return folder


def run(data: Path, store: Path, *options: str) -> int:
    model = str(ROOT / "models/tiny-llava")
    paths = ["--data", str(data / "train.jsonl"), "--images", str(data), "--store", str(store), "--model", model]
    paths += ["--feature-cache", str(data / "features")]
    return main(["train", "--name", "codes", *paths, "--output", str(store / "run"), *options])


def test_training_publishes_a_version_that_the_service_would_accept(data: Path, tmp_path: Path, prompt: Prompt) -> None:
    status = run(data, tmp_path, "--epochs", "15", "--learning-rate", "3e-3", "--batch-size", "8", "--holdout", "0.2")
    assert status == 0
    adapter = Store(tmp_path).stable("codes")
    Store(tmp_path).verify(adapter)
    proof = Proof.for_checkpoint(CHECKPOINT, Base.of_checkpoint(CHECKPOINT), prompt, 64)
    manifest = proof.examine(adapter)
    assert manifest is not None
    assert manifest.score.adapter > 0.8 * manifest.score.rows > manifest.score.base
    assert manifest.probes[0].adapter_answer.isdigit()
    assert all(probe.base_answer != probe.adapter_answer for probe in manifest.probes)
    assert "held-out" in (adapter.path / "README.md").read_text()
    losses = [
        json.loads(line)["loss"] for line in (tmp_path / "run/log.jsonl").read_text().splitlines() if '"loss"' in line
    ]
    assert losses[-1] < losses[0] / 2
    assert f"training loss from {losses[0]:.3f} at step 1 " in (tmp_path / "run/report.html").read_text()
    assert (adapter.path / "images.txt").read_text() == (tmp_path / "run/images.txt").read_text()


def test_an_adapter_that_gains_nothing_is_not_published(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(data, tmp_path, "--epochs", "0.1", "--learning-rate", "1e-9", "--holdout", "0.2") == 2
    assert "not published" in capsys.readouterr().err
    assert Store(tmp_path).names() == []
    assert "Worst errors" in (tmp_path / "run/report.html").read_text()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--rank", "7"], "--rank"),
        (["--holdout", "1.5"], "--holdout"),
        (["--model", "/nowhere"], "/nowhere"),
        (["--data", "/nowhere.jsonl"], "/nowhere.jsonl"),
    ],
)
def test_a_bad_option_is_named(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], word: str
) -> None:
    try:
        status: object = run(data, tmp_path, *options)
    except SystemExit as leave:  # argparse's own way out
        status = leave.code
    assert status == 2
    assert word in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["train"], ["evaluate"], ["publish"]])
def test_help_teaches(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leave:
        main([*command, "--help"])
    assert leave.value.code == 0
    assert "python -m trainer" in capsys.readouterr().out


def test_evaluate_without_a_service_says_what_to_do(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = ["--data", str(data / "train.jsonl"), "--images", str(data)]
    assert main(["evaluate", "--adapter", "codes", *paths, "--url", "http://127.0.0.1:9"]) == 2
    assert "make serve" in capsys.readouterr().err
