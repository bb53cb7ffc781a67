"""What decides on publishing fits the answers: free text is scored in full, by its loss; short answers by matches."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from service.adapters.manifest import PROBE_TOKENS, Gate, Manifest
from service.adapters.store import Store
from service.prompt import Prompt
from tests.conftest import ROOT, png
from trainer.__main__ import main
from trainer.data.row import Row
from trainer.errors import NoGain
from trainer.evaluation.gate import LOSS, check_gain, measure_for, weigh

MODEL = ROOT / "models/tiny-llava"
WORDS = "the picture shows one disc of {} colour on a plain white ground and there is nothing else to be seen in it"


def row(answer: str, number: int = 0) -> Row:
    return Row(str(number), None, f"q{number}", answer, "all")


@pytest.mark.parametrize(
    ("answers", "asked", "measure"),
    [
        (["seven", "a green circle"], "auto", "normalised"),
        ([WORDS, WORDS], "auto", LOSS),
        ([*["yes"] * 19, WORDS], "auto", "normalised"),
        ([*["yes"] * 8, WORDS], "auto", LOSS),
        ([WORDS], "anls", "anls"),
        (["seven"], "loss", LOSS),
    ],
)
def test_the_measure_is_chosen_by_the_answers_or_named(answers: Sequence[str], asked: str, measure: str) -> None:
    assert measure_for(asked, [row(answer) for answer in answers]) == measure  # type: ignore[arg-type]


def test_a_lower_loss_and_a_higher_metric_are_better() -> None:
    rows = [row("one red disc"), row("two", 1)]
    gate = weigh("f1", rows, (["a disc", "two"], ["one red disc", "three"]), (0.0, 0.0))
    assert gate == Gate(metric="f1", base=(0.5 + 1) / 2, adapter=0.5)
    with pytest.raises(NoGain, match=r"f1 0\.5, its base 0\.75.*it lies there; --gate"):
        check_gain(gate, 2, "it lies there")
    with pytest.raises(NoGain, match="it lies there; learn more; --gate"):
        check_gain(gate, 2, "it lies there", "learn more")
    check_gain(weigh(LOSS, rows, ([], []), (2.0, 1.0)), 2, "")
    with pytest.raises(NoGain, match=LOSS):
        check_gain(weigh(LOSS, rows, ([], []), (1.0, 1.0)), 2, "")


@pytest.fixture(scope="module")
def free_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures described in 40 to 80 tokens."""
    folder = tmp_path_factory.mktemp("free-text")
    lines, prompt = [], Prompt(MODEL)
    for number in range(40):
        colour = ("red", "green", "blue", "black")[number % 4]
        (folder / f"{number}.png").write_bytes(png(colour, (64 + number, 64)))
        answer = WORDS.format(colour)
        assert 40 <= len(prompt.encode_answer("describe it", answer)) <= 80
        lines.append(json.dumps({"image": f"{number}.png", "question": "describe it", "answer": answer}))
    (folder / "train.jsonl").write_text("\n".join(lines))
    return folder


def test_free_text_is_trained_scored_and_published(
    free_text: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = ["--data", str(free_text / "train.jsonl"), "--images", str(free_text), "--model", str(MODEL)]
    paths += ["--store", str(tmp_path / "store")]
    run = ["--output", str(tmp_path / "run"), "--feature-cache", str(free_text / "features")]
    steps = ["--epochs", "8", "--learning-rate", "3e-3", "--rows-per-step", "8", "--holdout", "0.2"]
    with caplog.at_level("INFO"):
        assert main(["train", "--name", "describe", *paths, *run, *steps]) == 0
    assert "loss decides" in caplog.text
    adapter = Store(tmp_path / "store").stable("describe")
    manifest = Manifest.model_validate_json((adapter.path / "manifest.json").read_bytes())
    assert manifest.gate is not None
    assert manifest.gate.metric == LOSS
    assert manifest.gate.adapter < manifest.gate.base / 2
    assert "Published by loss" in (adapter.path / "README.md").read_text()
    prompt = Prompt(MODEL)
    assert all(len(prompt.encode_answer("?", each.adapter_answer)) <= PROBE_TOKENS + 1 for each in manifest.probes)
    # Answers of more tokens than a probe's can be right now, in `publish` too.
    run_ = str(tmp_path / "run")
    assert main(["publish", "--name", "again", "--adapter", run_, *paths, "--gate", "f1", "--limit", "4"]) == 0
