"""`trainer sweep`: every combination is trained once on the same rows, and a sweep that was stopped goes on."""

import json
from pathlib import Path

import pytest

from tests.conftest import ROOT
from trainer.__main__ import main
from trainer.config.sweep import SweepOptions, combinations, training
from trainer.errors import OptionError


def options(*over: str, **fields: object) -> SweepOptions:
    return SweepOptions(name="x", data=["rows.jsonl"], eval_data="held.jsonl", over=list(over), **fields)


def test_every_combination_is_trained_the_last_option_changing_first() -> None:
    found = combinations(options("rank=8,16", "learning-rate=1e-4, 2e-5"))
    assert [(each["rank"], each["learning-rate"]) for each in found] == [
        ("8", "1e-4"),
        ("8", "2e-5"),
        ("16", "1e-4"),
        ("16", "2e-5"),
    ]


def test_a_training_has_the_sweep_s_options_and_its_own_values() -> None:
    made = training(options("rank=8", epochs=5.0), {"rank": "8", "rslora": "true"}, name="x", seed=3)
    assert (made.rank, made.epochs, made.rslora, made.seed) == (8, 5.0, True, 3)


@pytest.mark.parametrize(
    ("over", "says"),
    [
        ("ranks=8", "did you mean rank"),
        ("data=a,b", "'data' is no option that trainings may differ in"),
        ("rank=8,8", "once each"),
        ("rank=", "once each"),
        ("dropout=" + ",".join(f"0.{n:03}" for n in range(201)), "are over 200 trainings"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(over: str, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        combinations(options(over))


def test_a_value_that_the_option_does_not_take_is_named_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = ["--data", "rows.jsonl", "--eval-data", "held.jsonl", "--output", str(tmp_path / "out")]
    assert main(["sweep", "--name", "x", *paths, "--over", "rank=8,9"]) == 2
    assert "--over rank=9: --rank:" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_held_out_rows_have_to_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--name", "x", "--data", "rows.jsonl", "--over", "rank=8,16"]) == 2
    assert "--eval-data: is needed" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_settings_are_compared_and_a_second_call_trains_nothing(codes: Path, tmp_path: Path) -> None:
    rows = (codes / "train.jsonl").read_text().splitlines()
    held = tmp_path / "held.jsonl"
    held.write_text("\n".join(rows[:40]))
    data = tmp_path / "train.jsonl"
    data.write_text("\n".join(rows[40:]))
    out = tmp_path / "study"
    paths = ["--data", str(data), "--images", str(codes), "--eval-data", str(held), "--output", str(out)]
    how = ["--epochs", "12", "--rows-per-step", "10", "--feature-cache", str(tmp_path / "features")]
    command = ["sweep", "--name", "study", *paths, *how, "--model", str(ROOT / "models/tiny-llava")]
    command += ["--over", "learning-rate=3e-3,1e-6", "--seeds", "2", "--at-once", "2"]
    assert main(command) == 0
    found = json.loads((out / "sweep.json").read_text())
    verdicts = {each["setting"]["learning-rate"]: each["verdict"] for each in found["settings"]}
    assert verdicts == {"3e-3": "best here", "1e-6": "worse"}
    assert "<img src=" in (out / "sweep.html").read_text()
    logs = {file: file.read_bytes() for file in out.glob("*.log")}
    assert len(logs) == 4
    assert main(command) == 0
    assert {file: file.read_bytes() for file in out.glob("*.log")} == logs
