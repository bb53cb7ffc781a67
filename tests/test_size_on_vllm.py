"""The 7B's width in two layers, in INT4 with two adapters of rank 64: the service answers as transformers does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from PIL import Image
from transformers import AutoProcessor, CompressedTensorsConfig, LlavaForConditionalGeneration

from loadtest.service.size import ADAPTERS, PICTURE, QUESTION, Size, measure
from service.images import Preparation, picture
from service.prompt import Prompt

pytestmark = [pytest.mark.slow, pytest.mark.engine]
_TOKENS = 12
# Two tokens whose logits lie so close may change places where sums are rounded otherwise.
_NEAR = 0.25


@pytest.mark.timeout(3600)
def test_answers_over_http_are_those_of_transformers(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    measure(Size(layers=2, work=tmp_path, max_tokens=_TOKENS, max_model_len=1024, port=8196), told.append)
    (start,) = [line for line in told if line["step"] == "start"]
    expected = list(_answers(tmp_path / "model", [tmp_path / "adapters" / name for name in ADAPTERS]))
    compared = 0
    for name, (tokens, sure) in zip(("base", *ADAPTERS), expected, strict=True):
        assert "error" not in start[name], start[name]
        assert start[name]["image_tokens"] == 576
        said = Prompt(tmp_path / "model").decode(tokens[:sure])
        assert start[name]["answer"].startswith(said), (name, said, start[name]["answer"])
        compared += sure
    assert len({start[name]["answer"] for name in ("base", *ADAPTERS)}) == 3
    assert compared >= 2 * _TOKENS


def _answers(model: Path, adapters: list[Path]) -> Any:
    """Greedy tokens of base and adapters, and how many of them come before the first near tie."""
    llava: Any = LlavaForConditionalGeneration.from_pretrained(
        model, dtype=torch.float32, quantization_config=CompressedTensorsConfig(dequantize=True)
    ).eval()
    seen = picture(PICTURE.read_bytes(), Preparation.of_checkpoint(model)).image
    assert isinstance(seen, Image.Image)
    inputs = AutoProcessor.from_pretrained(model)(text=Prompt(model).text(QUESTION), images=seen, return_tensors="pt")
    yield _generate(llava, inputs)
    for adapter in adapters:
        wrapped = PeftModel.from_pretrained(llava, str(adapter))
        yield _generate(wrapped.get_base_model(), inputs)
        wrapped.unload()


def _generate(llava: Any, inputs: Any) -> tuple[list[int], int]:
    length = inputs["input_ids"].shape[1]
    with torch.inference_mode():
        out = llava.generate(
            **inputs, max_new_tokens=_TOKENS, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
    best = torch.stack(out.logits, dim=1)[0].log_softmax(-1).topk(2).values
    near = [number for number, (first, second) in enumerate(best.tolist()) if first - second < _NEAR]
    return out.sequences[0, length:].tolist(), near[0] if near else len(best)
