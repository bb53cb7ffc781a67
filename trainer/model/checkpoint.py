"""A base checkpoint in memory, with the prompt and the preparation of images that the service uses."""

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from os import environ
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoImageProcessor, BitsAndBytesConfig, CompressedTensorsConfig, LlavaForConditionalGeneration

from service.adapters.base import Base
from service.adapters.manifest import preparation_facts
from service.images import Preparation
from service.prompt import Prompt
from trainer.errors import OptionError
from trainer.model.forward import TreeLlava, tower_states
from trainer.model.int4 import quick_unpacking
from trainer.model.precision import FLOAT32, cast_weights, in_float32, round_once


@dataclass(frozen=True)
class Checkpoint:
    """A base checkpoint in memory, with the prompt and the preparation of images that the service uses.

    Where matrices multiply in bfloat16 (`bfloat16`), frozen ones are held in it. Norms and the residual stream are
    float32, as under autocast over float32 weights, and the loss is the same bit for bit (tested for a LoRA on a CPU).
    """

    path: Path
    model: Any
    processor: Any
    base: Base
    prompt: Prompt
    preparation: Preparation
    bfloat16: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the linears multiply in."""
        return torch.bfloat16 if self.bfloat16 else torch.float32

    @property
    def hidden_size(self) -> int:
        """The width of the language model's hidden states."""
        return int(self.model.config.text_config.hidden_size)

    def precision(self) -> AbstractContextManager[Any]:
        """The context manager under which the model has to run: autocast to `dtype` where it computes in bfloat16."""
        return torch.autocast(self.model.device.type, self.dtype, enabled=self.bfloat16)

    @cached_property
    def image_shape(self) -> tuple[int, int]:
        """How many tokens an image has, and the tower's hidden size: the shape of `tower_states` of one image."""
        blank = self.processor(images=[Image.new("RGB", (64, 64))], return_tensors="pt").pixel_values
        with self.precision():
            tokens, width = tower_states(self.model, blank).shape[1:]
        return int(tokens), int(width)

    @property
    def facts(self) -> dict[str, Any]:
        """What a manifest says of the base, by its fields' names."""
        return {
            "base_id": self.base.id,
            "base_digest": self.base.digest,
            "base_precision": self.base.precision,
            "prompt_digest": self.prompt.digest,
            "preparation": preparation_facts(self.preparation),
        }

    @property
    def context(self) -> int:
        """The most tokens that image, question and answer may have together."""
        return int(self.model.config.text_config.max_position_embeddings)

    @classmethod
    def load(cls, path: Path, nf4: bool = False, bfloat16: bool = False, learns: Sequence[str] = ()) -> "Checkpoint":
        """Load the llava-hf checkpoint in a directory; INT4 weights are dequantised, to the values that serve.

        With `bfloat16` matrices are held in it, but for modules that `learns` names: those stay in float32.

        Raises:
            FileNotFoundError: the directory is not a LLaVA checkpoint.
            OptionError: `nf4` of weights that are packed already, or weights packed in another form.
        """
        base, preparation = Base.of_checkpoint(path), Preparation.of_checkpoint(path)
        # Set by every launcher of several processes, each of which has a GPU of its own.
        device = f"cuda:{environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
        packing = _packing(path, base, nf4)
        with in_float32(*FLOAT32, *learns), quick_unpacking() if base.precision == "int4" else nullcontext():
            model = LlavaForConditionalGeneration.from_pretrained(
                path,
                dtype=torch.bfloat16 if bfloat16 else torch.float32,
                local_files_only=True,
                quantization_config=packing,
                device_map={"": device} if nf4 else None,  # packed where it stays: else every process packs on GPU 0
            )
        if not nf4:  # INT4 weights are dequantised in the precision of their scales, whatever was asked
            cast_weights(model, bfloat16, learns)
        elif bfloat16:
            round_once(model)
        model.__class__ = TreeLlava  # loaded by its own name: transformers translates keys by it
        processor = AutoImageProcessor.from_pretrained(path, local_files_only=True)
        return cls(path, model.eval().to(device), processor, base, Prompt(path), preparation, bfloat16)


def _packing(path: Path, base: Base, nf4: bool) -> Any:
    """How transformers is to hold the weights: INT4 dequantised, the language model's linears NF4, or as they are."""
    quantised = json.loads((path / "config.json").read_text()).get("quantization_config")
    if quantised and (base.precision, quantised.get("quant_method")) != ("int4", "compressed-tensors"):
        raise OptionError(
            f"--model: {path} is quantised to {base.precision} by {quantised.get('quant_method')}: training takes"
            " floats, and INT4 by compressed-tensors, which `trainer quantize` writes"
        )
    if base.precision == "int4":
        if nf4:
            raise OptionError(f"--nf4: {base.id} is INT4 already: leave --nf4 out, or name the bf16 checkpoint")
        return CompressedTensorsConfig(dequantize=True)
    if not nf4:
        return None
    kept = [".*vision_tower", ".*multi_modal_projector", "lm_head"]
    products = torch.bfloat16 if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else torch.float32
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=products,
        bnb_4bit_quant_storage=products,  # FSDP shares out tensors of one type alone
        llm_int8_skip_modules=kept,
    )
