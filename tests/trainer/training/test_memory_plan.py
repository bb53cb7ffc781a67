"""What a training takes is known before it starts, and grows with what makes it larger."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from transformers import AutoConfig

from loadtest.trainer.planned import drawn
from tests.conftest import ROOT
from trainer.adapter.lora import add_lora
from trainer.config.training import TrainOptions
from trainer.training.memory_plan import Need, Shape, need

CONFIG = AutoConfig.from_pretrained(ROOT / "models/tiny-llava")
LEARNS = partial(add_lora, options=TrainOptions.model_validate({"name": "x", "data": "x", "images": "x", "rank": 8}))


def planned(shape: Shape, **how: bool | int) -> Need:
    return need(CONFIG, LEARNS, shape, **how)  # type: ignore[arg-type]


def test_a_step_takes_more_of_more_tokens_and_less_with_checkpointing() -> None:
    small, large = planned(Shape(4, 128, 64)), planned(Shape(8, 128, 128))
    assert large.step == pytest.approx(2 * small.step, rel=0.3)
    assert planned(Shape(8, 128, 128), checkpointing=True).step < large.step
    assert (small.weights, small.learns, small.moments) == (large.weights, large.learns, large.moments)
    assert small.moments == 2 * small.learns
    assert (
        planned(Shape(4, 128, 64), nf4=True).weights
        < small.weights
        < planned(Shape(4, 128, 64), bfloat16=False).weights
    )


def test_the_tower_s_pass_counts_where_it_takes_more_than_a_step() -> None:
    """It runs before the rest of a step, or before all of them, so that the two never add up."""
    step, tower = planned(Shape(4, 128, 64)).step, planned(Shape(1, 8, 1), tower_images=64).step
    assert tower == pytest.approx(2 * planned(Shape(1, 8, 1), tower_images=32).step, rel=0.05)
    assert planned(Shape(4, 128, 64), tower_images=64).step == max(step, tower)


def test_states_of_images_are_part_of_a_step() -> None:
    assert planned(Shape(4, 128, 64, 64)).step > planned(Shape(4, 128, 64, 4)).step


def test_on_a_cpu_what_code_takes_as_it_first_runs_is_part_of_what_has_to_fit() -> None:
    need_ = Need(weights=100, learns=1, moments=2, step=3)
    assert need_.beside(150).more > need_.more
    assert need_.beside(150).total == 150 + need_.beside(150).more


@pytest.mark.slow
def test_the_plan_is_within_15_percent_of_the_measured_peak(tmp_path: Path) -> None:
    drawn(tmp_path / "pictures")
    case = ["--work", str(tmp_path), "--case", "0", "--case", "8192", "--case", "0"]
    command = [sys.executable, "-m", "loadtest.trainer.planned", *case]
    said = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
    assert json.loads(said)["ratio"] == pytest.approx(1, abs=0.15)
