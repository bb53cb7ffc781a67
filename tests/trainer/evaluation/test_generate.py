"""Answers for scoring: as many rows at once as memory holds, in the type that the base multiplies in."""

from pathlib import Path

import pytest
import torch
from transformers import DynamicCache

from tests.conftest import ROOT
from trainer.data.rows import read_rows
from trainer.evaluation import generate as predicting
from trainer.evaluation.generate import KeyCache, predict, room
from trainer.model.checkpoint import Checkpoint
from trainer.model.features import States


def test_keys_and_values_in_bfloat16_give_the_very_answers_of_float32(
    codes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Checkpoint.load(ROOT / "models/tiny-llava", bfloat16=True)
    rows = read_rows(codes / "train.jsonl", codes)[:24]
    sight, made = States.of(checkpoint, rows), list[KeyCache]()

    def kept(config: object, dtype: torch.dtype) -> KeyCache:
        cache = KeyCache(config, dtype)
        made.append(cache)
        return cache

    monkeypatch.setattr(predicting, "KeyCache", kept)
    found = predict(checkpoint, checkpoint.model, rows, sight, "in bfloat16")
    assert {(layer.keys.dtype, layer.values.dtype) for cache in made for layer in cache.layers} == {
        (torch.bfloat16, torch.bfloat16)
    }
    monkeypatch.setattr(predicting, "KeyCache", lambda config, _: DynamicCache(config=config))
    assert predict(checkpoint, checkpoint.model, rows, sight, "in float32") == found


def test_half_the_bytes_hold_twice_the_tokens() -> None:
    config = Checkpoint.load(ROOT / "models/tiny-llava").model.config.text_config
    assert room(config, 10_000_000, torch.bfloat16) == pytest.approx(2 * room(config, 10_000_000, torch.float32), abs=1)
