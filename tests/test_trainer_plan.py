"""What a training takes is known before it starts, and grows with what makes it larger."""

from functools import partial

import pytest
from transformers import AutoConfig

from tests.conftest import ROOT
from trainer.config import TrainOptions
from trainer.model import add_lora
from trainer.plan import Need, Shape, need

CONFIG = AutoConfig.from_pretrained(ROOT / "models/tiny-llava")
LEARNS = partial(add_lora, options=TrainOptions.model_validate({"name": "x", "data": "x", "images": "x", "rank": 8}))


def planned(shape: Shape, **how: bool) -> Need:
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
