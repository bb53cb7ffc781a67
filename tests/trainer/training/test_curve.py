"""Twenty steps through the real command line have the losses they always had: nothing on the way changes unseen."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, LlavaForConditionalGeneration

from tests.conftest import ROOT
from trainer.__main__ import main
from trainer.model.checkpoint_files import rename_tower

MODEL = ROOT / "models/tiny-llava"
# Found in float32: one thread or two, AVX-512 or AVX2 alone, differ by 2e-7. Other processors may by a lot more.
TOLERANCE = 1e-3
PINNED = [
    *(6.9407, 6.9879, 5.9791, 5.4596, 5.2432, 5.1164, 5.1478, 5.1052, 5.0040, 4.7311),
    *(4.5219, 4.4342, 4.3201, 4.2262, 4.2077, 4.1823, 4.0096, 3.9836, 3.9213, 3.9580),
]


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """A base of the embedded one's sizes and words, its weights drawn from a seed: that one is made anew at times."""
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(AutoConfig.from_pretrained(MODEL, dtype=torch.float32))
    model.save_pretrained(tmp_path / "base")
    rename_tower(tmp_path / "base")
    for file in ("tokenizer.json", "tokenizer_config.json", "processor_config.json", "chat_template.jinja"):
        shutil.copyfile(MODEL / file, tmp_path / "base" / file)
    return tmp_path / "base"


def test_twenty_steps_have_the_losses_they_always_had(drawn: Path, codes: Path, tmp_path: Path) -> None:
    options = {
        "--name": "codes",
        "--data": codes / "train.jsonl",
        "--images": codes,
        "--store": tmp_path / "store",
        "--output": tmp_path / "run",
        "--model": drawn,
        "--feature-cache": tmp_path / "features",
        "--holdout": 0.2,
        "--epochs": 4,
        "--rows-per-step": 16,
        "--learning-rate": 3e-3,
        "--precision": "float32",
        "--log-steps": 1,
    }
    main(["train", *(str(word) for option in options.items() for word in option)])
    lines = map(json.loads, (tmp_path / "run/log.jsonl").read_text().splitlines())
    assert [line["loss"] for line in lines if "loss" in line] == pytest.approx(PINNED, rel=TOLERANCE)
