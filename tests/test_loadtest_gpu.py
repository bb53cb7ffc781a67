"""The recipe for a GPU runs on the CPU at the small shape, goes on where it stopped, and carries wheels in parts."""

import json
import os
from pathlib import Path

import pytest

from loadtest.gpu import parts
from loadtest.gpu.__main__ import main, read, steps

SMALL = [
    "--size",
    "small",
    "--rank",
    "8",
    "--adapters",
    "2",
    "--answer",
    "4",
    "--clients",
    "2",
    "--rounds",
    "1",
    # A slow machine answers a few of each scenario in it; half of it, three seconds at least, measures the capacity.
    "--load-s",
    "4",
]
# A busy machine took over 300 s for the training of 32 rows.
TRAINING = ["--rows", "32", "--rows-per-step", "16", "--step-s", "1500"]


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.timeout(3600)
def test_every_step_runs_and_none_runs_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--work", str(tmp_path), "--port", "8195", *SMALL, *TRAINING]
    assert main(arguments) == 0
    found = {line["step"]: line for line in read(tmp_path / "results.jsonl")}
    assert list(found) == list(steps())
    assert all(line["weights"] == "random" and line["seconds"] >= 0 for line in found.values())
    assert found["weights"]["ratio"] < 1
    assert found["serve-int4"]["adapters_over_base"] > 0
    assert found["serve-int4"]["first_token_ms"] > 0
    assert {line["scenario"] for line in found["load-int4"]["scenarios"]} >= {"small", "photo-form", "ten", "stream"}
    assert all(line["throughput"] > 0 for line in found["load-int4"]["scenarios"])
    assert list(found["side-by-side"]["goals"]) == ["small-1", "small-16", "adapters", "photos"]
    assert all(found[f"train-{count}"]["rows_per_second"] > 0 for count in (1, 4, 16))
    assert (tmp_path / "gpu.png").stat().st_size > 1000
    capsys.readouterr()
    assert main(arguments) == 0
    assert capsys.readouterr().out == ""


def test_a_step_that_fails_says_why_and_the_next_one_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--work", str(tmp_path), *SMALL]
    assert main([*arguments, "--only", '["machine", "adapters", "picture"]']) == 1
    machine, adapters, picture = read(tmp_path / "results.jsonl")
    assert "FileNotFoundError" in adapters["error"] or "OSError" in adapters["error"]
    assert machine["versions"]["torch"]
    assert picture["file"].endswith("gpu.png")
    assert main([*arguments, "--only", '["replica-int4", "replica-bfloat16", "weights", "adapters"]']) == 0
    assert read(tmp_path / "results.jsonl")[-1]["adapters"] == 2
    assert main([*arguments, "--only", '["nothing"]']) == 2
    assert "there are machine, replica-int4" in capsys.readouterr().err


def test_wheels_are_carried_in_parts_and_a_missing_or_broken_one_is_named(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    contents = {"a.whl": os.urandom(2_500_000), "b.whl": b"small", "c.whl": os.urandom(1_000_000)}
    for name, content in contents.items():
        (wheels / name).write_bytes(content)
    count = parts.pack(wheels, tmp_path / "parts", 1)
    assert count == 4
    assert all(file.stat().st_size <= 1_000_000 for file in (tmp_path / "parts").glob("part-*"))
    assert parts.unpack(tmp_path / "parts", tmp_path / "back") == 3
    assert {file.name: file.read_bytes() for file in (tmp_path / "back").iterdir()} == contents
    (tmp_path / "parts/part-001").write_bytes(b"other")
    with pytest.raises(ValueError, match="part-001 is not what was packed"):
        parts.unpack(tmp_path / "parts", tmp_path / "back")
    (tmp_path / "parts/part-001").unlink()
    with pytest.raises(FileNotFoundError, match="lacks part-001"):
        parts.unpack(tmp_path / "parts", tmp_path / "back")
    assert json.dumps(parts.main([])) == "2"
