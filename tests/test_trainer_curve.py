"""Twenty steps through the real command line have the losses they always had: nothing on the way changes unseen."""

import json
from pathlib import Path

import pytest

from tests.conftest import ROOT
from trainer.__main__ import main

# In float32 one and two threads differ by a millionth; the tolerance leaves other CPUs a thousand times that.
TOLERANCE = 1e-3
PINNED = [
    *(2.9696, 2.9062, 3.5351, 2.8189, 2.5149, 1.9910, 1.6821, 1.3827, 1.0608, 0.9111),
    *(0.9577, 1.0998, 0.9742, 0.7124, 0.9995, 0.8997, 0.6736, 0.8834, 0.7710, 0.7992),
]


def test_twenty_steps_have_the_losses_they_always_had(codes: Path, tmp_path: Path) -> None:
    options = {
        "--name": "codes",
        "--data": codes / "train.jsonl",
        "--images": codes,
        "--store": tmp_path / "store",
        "--output": tmp_path / "run",
        "--model": ROOT / "models/tiny-llava",
        "--feature-cache": codes / "features",
        "--holdout": 0.2,
        "--epochs": 3.33,
        "--batch-size": 8,
        "--learning-rate": 3e-3,
        "--precision": "float32",
        "--log-steps": 1,
    }
    main(["train", *(str(word) for option in options.items() for word in option)])
    lines = map(json.loads, (tmp_path / "run/log.jsonl").read_text().splitlines())
    assert [line["loss"] for line in lines if "loss" in line] == pytest.approx(PINNED, rel=TOLERANCE)
