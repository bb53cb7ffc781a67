"""bf16 -> INT4: GPTQ to W4A16 by llm-compressor, calibrated on scenes; the language model's linears only."""

import json
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from transformers import AutoProcessor, LlavaForConditionalGeneration

from models.checkpoint import rename_tower
from models.stages import CALIBRATION, numbered_scene
from models.tower import PREPARATION

# vLLM matches these; the expanded list of names that compressed-tensors would write it does not.
IGNORE = ["re:.*vision_tower.*", "re:.*multi_modal_projector.*", "re:.*lm_head"]
GROUP = 32


def quantize(source: Path, target: Path, seed: int, scenes: int) -> None:
    """Write the W4A16 copy of the checkpoint in `source` to `target`."""
    model = LlavaForConditionalGeneration.from_pretrained(source, dtype=torch.bfloat16)
    processor = AutoProcessor.from_pretrained(source)
    modifier = GPTQModifier(
        config_groups={"group_0": {"targets": ["Linear"], "weights": _scheme()}}, ignore=IGNORE, dampening_frac=0.01
    )
    oneshot(
        model=model,
        processor=processor,
        dataset=Dataset.from_list([_sample(processor, seed, number) for number in range(scenes)]),
        recipe=modifier,
        max_seq_length=512,
        num_calibration_samples=scenes,
        data_collator=_collate,
        sequential_targets=["LlamaDecoderLayer"],
    )
    model.save_pretrained(target, save_compressed=True)
    processor.save_pretrained(target)
    rename_tower(target)
    config = json.loads((target / "config.json").read_text())
    config["quantization_config"]["ignore"] = IGNORE
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _scheme() -> dict[str, Any]:
    return {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": GROUP, "actorder": None}


def _sample(processor: Any, seed: int, number: int) -> dict[str, Any]:
    scene, asked = numbered_scene(seed, CALIBRATION + number)
    each = asked[0]
    text = f"USER: <image>\n{each.question} ASSISTANT: {each.answer}</s>"
    encoded = processor(images=PREPARATION.apply(scene.image), text=text, return_tensors="pt")
    return {key: value.tolist() for key, value in encoded.items()}


def _collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    (sample,) = batch
    return {key: torch.tensor(value) for key, value in sample.items()}
