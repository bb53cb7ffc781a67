"""`trainer quantize`: the copy is INT4, loads, has its source's identity, and its cost on rows is told."""

import json
import re
from pathlib import Path

import pytest

from service.adapters.base import Base
from service.prompt import Prompt
from tests.conftest import CHECKPOINT, ROOT
from trainer.__main__ import main

pytest.importorskip("llmcompressor")

MODEL = ROOT / "models/tiny-llava"


def run(output: Path, *options: str) -> int:
    return main(["quantize", "--model", str(MODEL), "--output", str(output), "--group-size", "32", *options])


@pytest.mark.parametrize("fit", [["--samples", "4"], ["--no-fit"]], ids=["GPTQ", "data-free"])
def test_the_copy_loads_and_its_cost_is_told(
    codes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fit: list[str]
) -> None:
    rows = ["--data", str(codes / "train.jsonl"), "--images", str(codes), "--holdout", "0.2"]
    assert run(tmp_path / "packed", *rows, *fit) == 0
    source, packed = Base.of_checkpoint(MODEL), Base.of_checkpoint(tmp_path / "packed")
    assert (packed.precision, packed.digest) == ("int4", source.digest)
    assert Prompt(tmp_path / "packed").digest == Prompt(MODEL).digest
    said = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("{"))
    cost = json.loads(said)
    assert (cost["base"], cost["precision"], cost["adapter"]) == (source.id, source.precision, "packed")
    assert 0 < cost["rows"] < 60
    low, high = cost["metrics"]["normalised"]["gain"][1:]
    assert -1 <= low <= high <= 1


def test_without_rows_it_is_data_free_and_still_loaded_before_it_has_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "packed") == 0
    assert capsys.readouterr().out.count("{") == 0

    def broken(*_: object) -> None:
        raise FileNotFoundError("does not load")

    monkeypatch.setattr("trainer.model.Checkpoint.load", broken)
    assert run(tmp_path / "broken") == 2
    assert not (tmp_path / "broken").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", str(CHECKPOINT)], "--model: .*tiny-llava-int4 is int4 already"),
        (["--output", str(ROOT)], "is there already"),
        (["--data", "rows.jsonl"], "--images"),
    ],
)
def test_what_cannot_be_packed_is_refused_by_its_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    assert run(tmp_path / "packed", *options) == 2
    assert re.search(words, capsys.readouterr().err)
