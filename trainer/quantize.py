"""`trainer quantize`: a bf16 base -> its W4A16 copy by llm-compressor, and what that cost on rows it was not fitted to.

Only the language model's linears are packed; tower, projector and head stay as they are, as every LLaVA recipe has it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from service.adapters.base import Base
from service.checkpoint import locate
from service.images import Preparation
from service.prompt import Prompt
from trainer.config import QuantizeOptions
from trainer.data.files import read
from trainer.data.rows import Row, read_rows
from trainer.data.split import split
from trainer.errors import OptionError
from trainer.evaluation import Evaluation, Source
from trainer.features import Features, prepared
from trainer.model import Checkpoint
from trainer.predict import predict
from trainer.saving import FLOATS, new_directory, rename_tower

# vLLM matches these; the expanded list of names that compressed-tensors would write it does not.
IGNORE = ["re:.*vision_tower.*", "re:.*multi_modal_projector.*", "re:.*lm_head"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One calibration exchange: a prepared picture, a question about it, its answer."""

    picture: Image.Image
    question: str
    answer: str


def quantize(options: QuantizeOptions) -> Evaluation | None:
    """Write the W4A16 copy and ask it and its source rows that it was not fitted to; without rows, none.

    Raises:
        TrainerError: faulty rows or options.
        FileNotFoundError: `options.model` is no LLaVA checkpoint.
    """
    source = locate(options.model)
    if options.output.exists():
        raise OptionError(f"--output: {options.output} is there already: name a new directory")
    if (precision := Base.of_checkpoint(source).precision) not in FLOATS:
        raise OptionError(f"--model: {options.model} is {precision} already: name the checkpoint it was packed from")
    rows: list[Row] = []
    held_out: list[Row] = []
    if options.data:
        if options.images is None:
            raise OptionError("--images: name the folder that the image names of --data are relative to")
        rows, held_out = split(read_rows(options.data, options.images), options.holdout, options.seed)
    write_int4(source, options.output, _samples(rows, source, options) if options.fit else [], options.group_size)
    return _cost(source, held_out, options) if held_out else None


def _samples(rows: list[Row], source: Path, options: QuantizeOptions) -> list[Sample]:
    preparation = Preparation.of_checkpoint(source)
    return [
        Sample(prepared(read(row.image), row, preparation), row.question, row.answer)
        for row in rows[:: max(1, len(rows) // options.samples)][: options.samples]
        if row.image
    ]


def write_int4(source: Path, target: Path, samples: list[Sample], group_size: int) -> None:
    """Pack the language model in `source` to 4 bits, by GPTQ where there are samples, by rounding where none.

    The copy takes its name once it has been loaded again.
    """
    model = LlavaForConditionalGeneration.from_pretrained(source, dtype=torch.bfloat16)
    processor = AutoProcessor.from_pretrained(source)
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": group_size}
    groups = {"group_0": {"targets": ["Linear"], "weights": {**weights, "actorder": None}}}
    if samples:
        prompt = Prompt(source)
        oneshot(
            model=model,
            processor=processor,
            dataset=Dataset.from_list([_encoded(processor, prompt, sample) for sample in samples]),
            recipe=GPTQModifier(config_groups=groups, ignore=IGNORE, dampening_frac=0.01),
            max_seq_length=model.config.text_config.max_position_embeddings,
            num_calibration_samples=len(samples),
            data_collator=_collate,
            sequential_targets=["LlamaDecoderLayer"],
        )
    else:
        oneshot(model=model, recipe=QuantizationModifier(config_groups=groups, ignore=IGNORE))
    with new_directory(target) as part:
        model.save_pretrained(part, save_compressed=True)
        processor.save_pretrained(part)
        rename_tower(part)
        config = json.loads((part / "config.json").read_text())
        config["quantization_config"]["ignore"] = IGNORE
        (part / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        Checkpoint.load(part)


def _encoded(processor: Any, prompt: Prompt, sample: Sample) -> dict[str, Any]:
    text = f"{prompt.text(sample.question)} {sample.answer}{processor.tokenizer.eos_token}"
    encoded = processor(images=sample.picture, text=text, return_tensors="pt")
    return {key: value.tolist() for key, value in encoded.items()}


def _collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    (sample,) = batch
    return {key: torch.tensor(value) for key, value in sample.items()}


def _cost(source: Path, rows: list[Row], options: QuantizeOptions) -> Evaluation:
    """The copy's answers to `rows` beside its source's, as an adapter's beside its base's."""
    before, after = (_answers(path, rows) for path in (source, options.output))
    base = Base.of_checkpoint(source)
    place = Source(options.model, base.id, base.precision)
    return Evaluation(place, options.output.name, tuple(rows), before, after, seed=options.seed)


def _answers(path: Path, rows: list[Row]) -> tuple[str, ...]:
    checkpoint = Checkpoint.load(path)
    features = Features.of(checkpoint, rows)
    answers = predict(checkpoint.model, checkpoint.prompt, rows, features, f"{path.name} answers")
    return tuple(answer.text for answer in answers)
