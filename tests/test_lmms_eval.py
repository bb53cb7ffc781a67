"""lmms-eval asks the real engine over the OpenAI face: its scores are the trainer's, above what guessing would have."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.lmms import __main__ as lmms
from tests.balancers import free_port
from tests.conftest import ROOT


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_lmms_eval_and_the_trainer_score_the_same_rows_the_same() -> None:
    command = [sys.executable, "-m", "loadtest.lmms", "--port", str(free_port())]
    done = subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.PIPE, text=True)
    print(done.stdout)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"bench": "lmms-eval"')]
    assert [line["task"] for line in lines] == ["scienceqa_local", "chartqa_local"]
    for line in lines:
        assert line["lmms_eval"] == line["trainer"]
        assert line["other_answers"] == []
        assert line["other_scores"] == 0
        assert line["lmms_eval"] > 50, "of three shapes a guess is right in 33%, of ten digits in 10%"
    assert done.returncode == 0


def test_letters_is_trained_again_where_an_option_or_a_row_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    for name, path in (("FOLDER", ""), ("_SETS", "sets"), ("_STORE", "adapters")):
        monkeypatch.setattr(lmms, name, tmp_path / path)
    rows = tmp_path / "sets/scienceqa/train.jsonl"
    rows.parent.mkdir(parents=True)
    rows.write_text("{}\n")
    trained = []

    def train(command: list[str], check: bool) -> None:
        assert check
        assert not (tmp_path / "adapters/letters").exists()
        (tmp_path / "adapters/letters").mkdir()
        (tmp_path / "adapters/letters/aliases.json").touch()
        trained.append(command[command.index("--epochs") + 1])

    monkeypatch.setattr(subprocess, "run", train)
    for options in (lmms.Lmms(), lmms.Lmms(), lmms.Lmms(epochs=5), lmms.Lmms(epochs=5, port=1)):
        lmms._publish(options)
    rows.write_text("{}\n{}\n")
    lmms._publish(lmms.Lmms(epochs=5))
    assert trained == ["4", "5", "5"]
