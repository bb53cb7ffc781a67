"""examples/loop/run.py as a person runs it: the better version is promoted, the worse one rolled back."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.balancers import free_port
from tests.conftest import ROOT

SCRIPT = ROOT / "examples/loop/run.py"


def test_a_folder_that_is_there_already_is_named_with_the_way_out(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"--folder {tmp_path}: is there already")
    assert f"`rm -r {tmp_path}`" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_the_loop_ends_with_the_better_version(tmp_path: Path) -> None:
    folder = tmp_path / "loop"
    command = [sys.executable, str(SCRIPT), "--folder", str(folder), "--port", str(free_port())]
    subprocess.run(command, cwd=ROOT, check=True)
    lines = [json.loads(line) for line in (folder / "decisions.jsonl").read_text().splitlines()]
    decided = [line for line in lines if line["decision"] != "wait"]
    assert [line["decision"] for line in decided] == ["promote", "roll back"]
    better, worse = decided
    assert better["evidence"]["better"] >= better["evidence"]["needed"]
    assert worse["stable"]["version"] == better["canary"]["version"]
    assert all(line["acts"] and line["undo"] for line in decided)
