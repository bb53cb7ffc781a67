"""Twenty steps through the real command line have the losses they always had: nothing on the way changes unseen."""

import json
from pathlib import Path

import pytest

from tests.conftest import ROOT
from trainer.__main__ import main

PINNED = [0.0] * 20


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
    assert [line["loss"] for line in lines if "loss" in line] == pytest.approx(PINNED, rel=1e-2)
