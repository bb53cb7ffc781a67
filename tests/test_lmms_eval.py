"""lmms-eval asks the real engine over the OpenAI face: its scores are the trainer's, above what guessing would have."""

import json
import subprocess
import sys

import pytest

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
