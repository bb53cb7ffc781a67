"""Answers for scoring: as many rows at once as memory holds, in the type that the base multiplies in."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import DynamicCache

from service.beams import search
from service.types import Continuations, TokenIds
from tests.conftest import ROOT
from trainer.data.row import Row
from trainer.data.rows import read_rows
from trainer.evaluation import generate as predicting
from trainer.evaluation.generate import KeyCache, predict, room
from trainer.model.checkpoint import Checkpoint
from trainer.model.features import States
from trainer.model.forward import embed, project


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


async def test_beams_find_the_answers_that_the_service_finds(tmp_path: Path) -> None:
    """`search` is the service's own, here over the logits of the model in process."""
    checkpoint, beams, rows = Checkpoint.load(ROOT / "models/tiny-llava"), 5, list[Row]()
    for number in range(5):  # noise, of which no answer is sure
        Image.effect_noise((96, 96), 20 + 30 * number).convert("RGB").save(tmp_path / f"{number}.png")
        for question in ("describe the picture.", "read the letters.", "what number is shown?"):
            rows.append(Row(f"{number}-{question}", str(tmp_path / f"{number}.png"), question, "", "all"))
    sight, llava, end = States.of(checkpoint, rows), checkpoint.model, checkpoint.prompt.end_token_id

    async def searched(row: Row) -> str:
        features = project(llava, sight([str(row.image)])["states"])
        prompt = [
            each
            for token in checkpoint.prompt.encode(row.question, 1, ())
            for each in [token] * (checkpoint.image_shape[0] if token == checkpoint.prompt.image_token_id else 1)
        ]

        async def extend(said: Sequence[TokenIds], most: int) -> Continuations:
            ids = torch.tensor([[*prompt, *tokens] for tokens in said])  # beams are of one length
            shown = embed(llava, ids, features.repeat(len(said), *[1] * (features.dim() - 1)))
            best = llava(inputs_embeds=shown).logits[:, -1].float().log_softmax(-1).topk(most)
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            return Continuations(tuple(dict(zip(*pair, strict=True)) for pair in pairs), len(prompt))

        return checkpoint.prompt.decode((await search(extend, beams, 8, end)).token_ids)

    with torch.inference_mode():
        expected = [await searched(row) for row in rows]
    found = [said.text for said in predict(checkpoint, llava, rows, sight, "by beams", 8, beams)]
    assert found == expected
    assert found != [said.text for said in predict(checkpoint, llava, rows, sight, "greedy", 8)]


def test_half_the_bytes_hold_twice_the_tokens() -> None:
    config = Checkpoint.load(ROOT / "models/tiny-llava").model.config.text_config
    assert room(config, 10_000_000, torch.bfloat16) == pytest.approx(2 * room(config, 10_000_000, torch.float32), abs=1)
